# SPDX-License-Identifier: MIT
"""The table, for people. results.json has everything; summary.json the medians."""

import json
import os

from . import chart, jobs, stats

BY_NAME = {job.name: job for job in jobs.JOBS}


def write(results, out):
    """Prints the report and writes it beside results.json. Status: 1 if a run failed."""
    summary = stats.summarise(results) if results["runs"] else {}
    lines = head(results) + (device_table(results, summary) if summary else []) + count_table(results["counts"])
    text = "\n".join(lines) + "\n"
    print(text, end="")
    with open(os.path.join(out, "report.txt"), "w", encoding="utf-8") as file:
        file.write(text)
    with open(os.path.join(out, "summary.json"), "w", encoding="utf-8") as file:
        json.dump({"environment": results["environment"], "jobs": summary, "counts": results["counts"]}, file, indent=1)
    if summary:
        with open(os.path.join(out, "results.svg"), "w", encoding="utf-8") as file:
            file.write(chart.draw(results, summary))
    failed = [entry for entry in results["runs"] + results["counts"] if "error" in entry]
    return 1 if failed or not results["environment"].get("complete", True) else 0


def head(results):
    env, plan = results["environment"], results["plan"]
    lines = [f"cowblk {env['commit']}, {env['qemu']}, {env['fio']}, {env['date']}",
             f"machine: {env['cpu']}, {env['host_cpus']} CPUs, Linux {env['host_kernel']}"]
    if results["runs"]:
        lines.append(f"kernel:  {env.get('kernel', '?')} ({env.get('kernel_kind', '?')}), {env.get('cpus_online', '?')} CPUs, images on {plan['fs']}")
        lines.append(f"runs:    {plan['rounds']} rounds of {plan['seconds']} s, interleaved; median (min..max)")
    return lines + [""]


def cell(job, entry):
    if entry["iops"] is None:
        return "failed" if entry["errors"] else "-"
    field, scale = ("iops", 1) if job.unit == "IOPS" else ("bytes_per_second", 1e6)
    s = entry[field]
    return f"{s['median'] / scale:.0f} ({s['min'] / scale:.0f}..{s['max'] / scale:.0f})"


def device_table(results, summary):
    names = results["plan"]["peers"]
    rows = [["job", "unit", *names, *[f"{names[0]} / {name}" for name in names[1:]]]]
    for name, entries in summary.items():
        job = BY_NAME[name]
        ratios = [f"{entries[peer]['ratio']['median']:.2f}" if entries[peer]["ratio"] else "-" for peer in names[1:]]
        rows.append([name, job.unit, *[cell(job, entries[peer]) for peer in names], *ratios])
    notes = sorted({f"failed: {job}, {peer}: {entry['errors'][0]}" for job, entries in summary.items()
                    for peer, entry in entries.items() if entry["errors"]})
    return align(rows) + notes + [""]


def count_table(counts):
    if not counts:
        return []
    rows = [["256 guest requests, one FLUSH at the end", "depth", "program", "writes", "flushes", "KiB written", "reads", "punches"]]
    for entry in counts:
        row = [entry["title"], str(entry["depth"]), entry["program"]]
        if "writes" in entry:
            row += [str(n) for n in (entry["writes"], entry["flushes"], entry["bytes_written"] // 1024, entry["reads"], entry["punches"])]
        else:
            row += ["refused" if "refused" in entry else "failed", "-", "-", "-", "-"]
        rows.append(row)
    words = {entry[key] for entry in counts for key in ("refused", "error") if key in entry}
    return align(rows) + sorted(words)


def align(rows):
    """Columns; the first left, numbers right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) if i == 0 else text.rjust(width)
                      for i, (text, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
