# SPDX-License-Identifier: MIT
"""Medians over rounds, and ratios paired by round: what is slow in one round is slow for all of its peers."""

from statistics import median

FIELDS = ("iops", "bytes_per_second", "p50_us", "p99_us", "cpu_us_per_io")


def spread(values):
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)} if values else None


def values(runs, job, peer, field):
    """round -> value, of the runs that came out well."""
    return {run["round"]: run[field] for run in runs
            if run["job"] == job and run["peer"] == peer and "error" not in run and "skipped" not in run}


def ratio(runs, job, peer, other, field):
    mine, theirs = values(runs, job, peer, field), values(runs, job, other, field)
    return spread([mine[nr] / theirs[nr] for nr in sorted(mine) if theirs.get(nr)])


def errors(runs, job, peer):
    return [run["error"] for run in runs if run["job"] == job and run["peer"] == peer and "error" in run]


def summarise(results):
    """List of {cpus, jobs: job -> peer -> {iops, ..., ratio, errors}}; ratio is first peer / this peer."""
    names, table = results["plan"]["peers"], []
    for cpus in results["plan"]["cpus"]:
        runs = [run for run in results["runs"] if run["cpus"] == cpus]
        measured = {run["job"] for run in runs}
        table.append({"cpus": cpus, "jobs": {
            job: {peer: entry(runs, job, peer, names[0]) for peer in names}
            for job in results["plan"]["jobs"] if job in measured}})
    return table


def entry(runs, job, peer, first):
    figures = {field: spread(list(values(runs, job, peer, field).values())) for field in FIELDS}
    compared = ratio(runs, job, first, peer, "iops") if peer != first else None
    return {**figures, "ratio": compared, "errors": errors(runs, job, peer)}
