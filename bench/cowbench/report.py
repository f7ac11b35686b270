# SPDX-License-Identifier: MIT
"""The table, for people. results.json has everything; summary.json the medians."""

import json
import os

from . import chart, jobs, stats

def write(results, out):
    """Prints the report and writes it beside results.json. Status: 1 if a run failed."""
    summary = stats.summarise(results) if results["runs"] else []
    tables = [line for part in summary for line in device_table(results, part)]
    text = "\n".join(head(results) + tables + count_table(results["counts"]) + micro_table(results["micro"])) + "\n"
    print(text, end="")
    save(out, "report.txt", text)
    everything = {"environment": results["environment"], "summary": summary, "counts": results["counts"],
                  "micro": results["micro"]}
    save(out, "summary.json", json.dumps(everything, indent=1))
    if summary:
        save(out, "results.svg", chart.draw(results, summary))
    failed = [entry for entry in results["runs"] + results["counts"] + results["micro"] if "error" in entry]
    return 1 if failed or not results["environment"].get("complete", True) else 0


def save(out, name, text):
    with open(os.path.join(out, name), "w", encoding="utf-8") as file:
        file.write(text)


def head(results):
    env, plan = results["environment"], results["plan"]
    lines = [f"cowblk {env['commit']}, {env['qemu']}, {env['fio']}, {env['date']}",
             f"machine: {env['cpu']}, {env['host_cpus']} CPUs, Linux {env['host_kernel']}, "
             f"load {env['load'][0]:.1f} before, {env['load'][1]:.1f} after"]
    if results["runs"]:
        lines += [f"kernel:  {env.get('kernel', '?')} ({env.get('kernel_kind', '?')}), images on {plan['fs']}",
                  f"runs:    {plan['rounds']} rounds of {plan['seconds']} s, interleaved; median (min..max); "
                  "ratios are medians of each round's"]
    return lines + [""]


def cell(job, entry):
    if entry["iops"] is None:
        return "failed" if entry["errors"] else "-"
    field, scale = ("iops", 1) if job.unit == "IOPS" else ("bytes_per_second", 1e6)
    s = entry[field]
    return f"{s['median'] / scale:.0f} ({s['min'] / scale:.0f}..{s['max'] / scale:.0f})"


def device_table(results, part):
    names, cpus = results["plan"]["peers"], part["cpus"]
    rows = [[f"{cpus} CPU{'s' * (cpus > 1)}", "unit", *names, *[f"{names[0]} / {name}" for name in names[1:]]]]
    for name, entries in part["jobs"].items():
        job = jobs.BY_NAME[name]
        ratios = [f"{entries[peer]['ratio']['median']:.2f}" if entries[peer]["ratio"] else "-" for peer in names[1:]]
        rows.append([name, job.unit, *[cell(job, entries[peer]) for peer in names], *ratios])
    notes = sorted({f"failed: {job}, {peer}: {entry['errors'][0]}" for job, entries in part["jobs"].items()
                    for peer, entry in entries.items() if entry["errors"]})
    return align(rows) + notes + [""]


def count_table(counts):
    if not counts:
        return []
    rows = [["256 guest requests, FLUSH, close", "depth", "program", "writes", "flushes", "at FLUSH", "KiB written",
             "reads", "punches"]]
    for entry in counts:
        row = [entry["title"], str(entry["depth"]), entry["program"]]
        if "writes" in entry:
            kib = entry["bytes_written"] // 1024
            first = entry["at_flush"]["flushes"] if "at_flush" in entry else "-"
            row += [str(n) for n in (entry["writes"], entry["flushes"], first, kib, entry["reads"], entry["punches"])]
        else:
            row += ["refused" if "refused" in entry else "failed", *["-"] * 5]
        rows.append(row)
    words = {entry[key] for entry in counts for key in ("refused", "error") if key in entry}
    return align(rows) + sorted(words)


def micro_table(entries):
    if not entries:
        return []
    rows = [["engine alone", "ns a request", "instructions", "host I/Os"]]
    for entry in entries:
        if "error" in entry:
            rows.append([entry["case"], "failed", "-", "-"])
        else:
            rows.append([entry["case"], f"{entry['ns_per_request']:.0f}", str(entry["instructions_per_request"] or "-"),
                         f"{entry['host_ios_per_request']:.2f}"])
    return ["", *align(rows), *sorted({entry["error"] for entry in entries if "error" in entry})]


def align(rows):
    """Columns; the first left, numbers right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) if i == 0 else text.rjust(width)
                      for i, (text, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
