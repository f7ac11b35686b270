# SPDX-License-Identifier: MIT
"""An SVG of the medians: for each job a bar a peer, relative to the job's best, with its figure and range."""

from html import escape

from . import jobs
COLOURS = ("#1f6f8b", "#c8553d", "#9aa5b1", "#6a994e", "#b08968", "#7b5ea7")
LEFT, BAR, WIDTH, GAP, TOP = 300, 12, 420, 14, 64


def draw(results, summary):
    names = results["plan"]["peers"]
    body, y = [text(16, 24, "cowblk bench: medians, longer is better", 15, "bold"), *legend(names)], TOP
    for part in summary:
        body.append(text(16, y + 12, f"{part['cpus']} CPU{'s' * (part['cpus'] > 1)}", 13, "bold"))
        y += 24
        for name, entries in part["jobs"].items():
            body += group(jobs.BY_NAME[name], entries, names, y)
            y += len(names) * BAR + GAP
    env = results["environment"]
    words = (env.get("kernel", "")[:60], env["cpu"], env["qemu"].partition(" (")[0], results["plan"]["fs"], env["date"])
    body.append(text(16, y + 14, ", ".join(words), 9))
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 220}" height="{y + 24}" '
            'font-family="sans-serif">\n<rect width="100%" height="100%" fill="white"/>')
    return "\n".join([head, *body, "</svg>\n"])


def text(x, y, string, size=10, weight="normal", anchor="start"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
            f'text-anchor="{anchor}">{escape(string)}</text>')


def legend(names):
    parts, x = [], 16
    for i, name in enumerate(names):
        parts.append(f'<rect x="{x}" y="36" width="10" height="10" fill="{COLOURS[i % len(COLOURS)]}"/>')
        parts.append(text(x + 14, 45, name, 11))
        x += 30 + 7 * len(name)
    return parts


def group(job, entries, names, y):
    """One job: its title and a bar a peer, with a line from the slowest round to the fastest."""
    field, scale = ("iops", 1) if job.unit == "IOPS" else ("bytes_per_second", 1e6)
    best = max((e[field]["max"] for e in entries.values() if e[field]), default=0)
    parts = [text(LEFT - 10, y + len(names) * BAR / 2 + 4, job.title, 11, anchor="end")]
    for i, name in enumerate(names):
        s, top = entries[name][field], y + i * BAR
        if not s or not best:
            parts.append(text(LEFT + 4, top + 9, "failed" if entries[name]["errors"] else "not applicable", 9))
            continue
        long, low, high = (s[key] / best * WIDTH for key in ("median", "min", "max"))
        ratio = entries[name]["ratio"]
        label = f"{s['median'] / scale:.0f} {job.unit}" + (f", {names[0]} is x{ratio['median']:.2f}" if ratio else "")
        parts.append(f'<rect x="{LEFT}" y="{top}" width="{long:.1f}" height="{BAR - 2}" '
                     f'fill="{COLOURS[i % len(COLOURS)]}"/>')
        parts.append(f'<path d="M{LEFT + low:.1f} {top + 5}H{LEFT + high:.1f}" stroke="#222"/>')
        parts.append(text(LEFT + max(long, high) + 6, top + 9, label, 9))
    return parts
