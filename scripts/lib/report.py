"""Makes the README and the plot of a run out of what it left, for scripts/bench.sh.

    report.py FOLDER peers|curves TITLE COMMAND

FOLDER has rounds.tsv (curves.tsv), machine.txt and versions.txt; of `peers` also programs.tsv. Nothing but the standard library.
"""

import csv
import statistics
import sys
from pathlib import Path

import plot


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def markdown(header, rows):
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] + ["---:"] * (len(header) - 1)) + " |"]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def peers(folder):
    programs, rounds = rows_of(folder / "programs.tsv"), rows_of(folder / "rounds.tsv")
    connections = sorted({int(row["connections"]) for row in rounds})
    names = [row["program"] for row in programs]

    def median(name, n, column):
        values = [float(row[column]) for row in rounds if row["program"] == name and int(row["connections"]) == n]
        return statistics.median(values)

    def errors(name):
        return sum(int(row["errors"]) for row in rounds if row["program"] == name)

    text = []
    for protocol, title in (("REST", "Calls over REST"), ("MCP", "`tools/call` in a session of Streamable HTTP")):
        own = [row for row in programs if row["protocol"] == protocol]
        if not own:
            continue
        text += [f"## {title}", ""]
        for n in connections:
            header = [f"{n} connections", "calls/s", "p50 ms", "p99 ms", "CPU µs/call", "PSS MB"]
            table = [
                [row["program"], f"{median(row['program'], n, 'calls_per_s'):,.0f}", f"{median(row['program'], n, 'p50_us') / 1000:.2f}",
                 f"{median(row['program'], n, 'p99_us') / 1000:.2f}", f"{median(row['program'], n, 'cpu_us_per_call'):,.0f}",
                 f"{median(row['program'], n, 'pss_kb') / 1024:.1f}"]
                for row in sorted(own, key=lambda row: -median(row["program"], n, "calls_per_s"))
            ]
            text += [markdown(header, table), ""]
    header = ["program", "what it is", "first answer ms", "idle PSS MB", "errors under load", "answers looked into", "of them wrong"]
    table = [
        [row["program"], row["package"], f"{float(row['first_answer_ms']):,.0f}", f"{int(row['idle_pss_kb']) / 1024:.1f}",
         errors(row["program"]), row["checked"], row["wrong"]]
        for row in programs
    ]
    text += ["## Start, memory, errors", "", markdown(header, table), ""]
    n = connections[-1]

    def bars(title, value, keep=lambda row: True, reverse=True):
        rows = [(row["program"], value(row["program"]), row["program"].startswith("mcpgate")) for row in programs if keep(row)]
        return plot.bars(title, sorted(rows, key=lambda row: row[1], reverse=reverse))

    memory = {row["program"]: int(row["idle_pss_kb"]) / 1024 for row in programs}
    panels = []
    for protocol, title in (("REST", "REST"), ("MCP", "MCP Streamable HTTP")):
        if any(row["protocol"] == protocol for row in programs):
            keep = lambda row, protocol=protocol: row["protocol"] == protocol
            panels.append(bars(f"{title}: calls/s at {n} connections (log scale, more is better)", lambda it: median(it, n, "calls_per_s"), keep))
    panels.append(bars(f"CPU µs per call at {n} connections (log scale, less is better)", lambda it: median(it, n, "cpu_us_per_call"), reverse=False))
    panels.append(bars("Memory idle, MB PSS (log scale, less is better)", memory.get, reverse=False))
    plot.write(folder / "plot.svg", panels)
    intro = (
        "One server process each, the same program, on loopback; wrk on the same processors. Medians of "
        f"{max(int(row['round']) for row in rounds)} rounds in which the programs took turns. CPU and PSS (Linux's share of memory) are of the "
        "program with all its processes, without the server's. Worth reading are ratios: absolute figures change with the machine."
    )
    return [intro, "", "![Calls per second, CPU, memory](plot.svg)", "", *text]


# What is varied, in words; what differs behind `over` stands in one plot.
AXES = {
    "connections": "connections, echo, 2 workers",
    "workers": "workers, echo at 64 connections",
    "tools": "tools that the server lists, echo at 16 connections over REST",
    "tools_mcp": "tools that the server lists, echo at 16 connections over /mcp",
    "uptime": "number of the call since the start, at least, 64 connections",
    "result_bytes": "bytes of the result, 4 connections",
}


def curves(folder):
    rows = rows_of(folder / "curves.tsv")
    text, plots = [], {}
    for axis, words in AXES.items():
        own = [row for row in rows if row["axis"] == axis]
        if not own:
            continue
        xs = sorted({int(row["x"]) for row in own})

        def median(x, column, own=own):
            return statistics.median(float(row[column]) for row in own if int(row["x"]) == x)

        header = [words, "calls/s", "p50 ms", "p99 ms", "CPU µs/call", "PSS MB"]
        is_size = axis == "result_bytes"
        if is_size:
            header[-1:] = ["CPU ns/byte", "MB/s", "PSS MB"]
        table = []
        for x in xs:
            cpu, calls = median(x, "cpu_us_per_call"), median(x, "calls_per_s")
            cells = [f"{x:,}", f"{calls:,.0f}", f"{median(x, 'p50_us') / 1000:.2f}", f"{median(x, 'p99_us') / 1000:.2f}", f"{cpu:,.1f}"]
            cells += [f"{cpu * 1000 / x:.2f}", f"{calls * x / 1e6:,.0f}"] if is_size else []
            table.append([*cells, f"{median(x, 'pss_kb') / 1024:.1f}"])
        text += [markdown(header, table), ""]
        if is_size:
            points = [(x, median(x, "cpu_us_per_call") * 1000 / x) for x in xs if 10_000 <= x]
            plots["CPU of the gateway, ns per byte of a result"] = words, {"": points}
        else:
            title, _, name = words.partition(" over ")
            points = [(x, median(x, "cpu_us_per_call")) for x in xs]
            plots.setdefault(f"CPU of the gateway, µs per call, by {title.split(',')[0]}", (title, {}))[1][name] = points
    others = [row for row in rows if row["axis"] not in AXES]
    if others:
        names = sorted({(row["axis"], int(row["x"]), row["unit"]) for row in others})
        value = lambda name: statistics.median(float(row["value"]) for row in others if (row["axis"], int(row["x"]), row["unit"]) == name)
        text += [markdown(["measured", "value"], [[f"{axis}, {x:,}", f"{value((axis, x, unit)):,.1f} {unit}"] for axis, x, unit in names]), ""]
    plot.write(folder / "plot.svg", [plot.lines(title, words, series) for title, (words, series) in plots.items()])
    intro = (
        "What a call costs the gateway (user and system time of its process, without its workers) must not grow with connections, workers, "
        "tools or size. The client runs on the same processors, so calls/s also show what it needs itself."
    )
    return [intro, "", "![CPU per call](plot.svg)", "", *text]


def main(folder, kind, title, command):
    folder = Path(folder)
    body = {"peers": peers, "curves": curves}[kind](folder)
    parts = [f"# {title}", "", "Made by", "", "```sh", command, "```", "", *body, "## Machine and versions", "", "```text"]
    for name in ("machine.txt", "versions.txt"):
        parts += (folder / name).read_text().splitlines()
    (folder / "README.md").write_text("\n".join([*parts, "```", ""]))


main(*sys.argv[1:])
