# SPDX-License-Identifier: MIT
"""Medians over rounds, and ratios paired by round: what is slow in one round is slow for all of its peers."""

from statistics import median


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
    """job -> peer -> {value, p99_us, cpu_us_per_io, ratio, error}; ratio is first peer / this peer."""
    runs, names = results["runs"], results["plan"]["peers"]
    table = {}
    for job in results["plan"]["jobs"]:
        table[job] = {peer: {
            "iops": spread(list(values(runs, job, peer, "iops").values())),
            "bytes_per_second": spread(list(values(runs, job, peer, "bytes_per_second").values())),
            "p99_us": spread(list(values(runs, job, peer, "p99_us").values())),
            "cpu_us_per_io": spread(list(values(runs, job, peer, "cpu_us_per_io").values())),
            "ratio": ratio(runs, job, names[0], peer, "iops") if peer != names[0] else None,
            "errors": errors(runs, job, peer),
        } for peer in names}
    return table
