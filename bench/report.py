"""Puts what was measured into docs/performance.md, between its markers; draws the picture; writes the plans."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench import machine, pages, webhooks
from bench.measure import ENTRIES
from bench.pages import Answered
from bench.resources import Served, Together
from bench.scale import Size
from bench.stage import Stage
from bench.throughput import LATENCIES, Speeds

DOCS: Final = Path(__file__).parent.parent / "docs"
PAGE: Final = DOCS / "performance.md"
PICTURE: Final = DOCS / "performance.svg"
PLANS: Final = DOCS / "plans"


def put(name: str, lines: Sequence[str]) -> None:
    """Replace what stands between the markers of a part."""
    page = PAGE.read_text()
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    if begin not in page or end not in page:
        msg = f"{PAGE} has no markers for {name}"
        raise RuntimeError(msg)
    before, after = page.partition(begin)[0], page.partition(end)[2]
    PAGE.write_text(before + begin + "\n".join(lines) + "\n" + end + after)


def stamp(stage: Stage, what: str) -> str:
    """When and on what something was measured."""
    pinned = "client on one core, API and PostgreSQL on the other" if stage.client_core is not None else "not pinned"
    hasty = " **A quick run: too short to quote.**" if stage.quick else ""
    return f"{what}, {datetime.now(UTC):%Y-%m-%d}; {machine.size()}; {pinned}.{hasty}"


def put_versions(stage: Stage) -> None:
    versions = machine.versions() | {"PostgreSQL": machine.server_version(stage.server)}
    put("versions", ["", ", ".join(f"{name} {number}" for name, number in versions.items()) + ".", ""])


def put_throughput(stage: Stage, speeds: Speeds, rounds: int) -> None:
    lines = ["", stamp(stage, f"Medians of {rounds} rounds"), ""]
    lines += ["| | 0 ms | 50 ± 20 ms | client CPU, s per 1,000 | memory, MB |", "|---|---:|---:|---:|---:|"]
    for name, entry in ENTRIES.items():
        fast, slow = speeds[name, 0], speeds[name, 50]
        title = f"**{entry.title}**" if entry.ours else entry.title
        lines.append(
            f"| {title} | {fast.per_second:,.0f} | {slow.per_second:,.0f} "
            f"| {fast.cpu_per_1000:.2f} | {fast.peak_mb:.0f} |"
        )
    lines += ["", "| ratio, in the same rounds | PostgreSQL | SQLite | target |", "|---|---:|---:|---:|"]
    for title, latency, other, target in (
        ("0 ms: to the official async SDK", 0, "sdk-async", "≥ 5"),
        ("0 ms: to PGQueuer on aiohttp, the fastest queue", 0, "pgqueuer-aiohttp", ""),
        ("0 ms: to 50 httpx clients without a database", 0, "httpx-many", "≥ 0.8"),
        ("50 ms: to bare aiohttp", 50, "aiohttp", "≥ 0.85"),
        ("50 ms: to PGQueuer on aiohttp, the fastest queue", 50, "pgqueuer-aiohttp", "> 1"),
    ):
        ratios = [
            speeds[name, latency].per_second / speeds[other, latency].per_second
            for name in ("ours-postgresql", "ours-sqlite")
        ]
        lines.append(f"| {title} | {ratios[0]:.2f} | {ratios[1]:.2f} | {target} |")
    cpu = [speeds[name, 0].cpu_per_1000 for name in ("ours-postgresql", "ours-sqlite")]
    lines += [f"| client CPU, s per 1,000 shares at 0 ms | {cpu[0]:.2f} | {cpu[1]:.2f} | ≤ 0.8 |", ""]
    put("throughput", lines)
    at_once = [speeds[name, 0].per_second for name in ("ours-postgresql", "ours-sqlite")]
    later = [speeds[name, 50].per_second for name in ("ours-postgresql", "ours-sqlite")]
    put(
        "speed",
        [
            f"- **{at_once[0]:,.0f} shares a second** on PostgreSQL ({at_once[1]:,.0f} on SQLite) with an API "
            f"that answers at once; {later[0]:,.0f} ({later[1]:,.0f}) with answers after 50 ± 20 ms. "
            "The default limit is 20.",
        ],
    )
    PICTURE.write_text(_picture(speeds))


def put_scale(stage: Stage, sizes: Sequence[Size]) -> None:
    lines = ["", stamp(stage, "1,000 chats due, a fifth shared with earlier that day, API of 0 ms"), ""]
    lines += [
        "| database | chats | attempts before | pass, s | `run`, s | `run --dry-run`, s "
        "| memory, MB | dry run, MB | size, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for size in sizes:
        lines.append(
            f"| {size.world.kind} | {size.world.chats:,} | {size.world.attempts:,} | {size.pass_seconds:.1f} "
            f"| {size.run_seconds:.1f} | {size.dry_run_seconds:.1f} | {size.peak_mb:.0f} | {size.dry_run_peak_mb:.0f} "
            f"| {size.ledger_mb:,.0f} |"
        )
    put("scale", [*lines, ""])
    largest = max((size for size in sizes if size.world.kind == "postgresql"), key=lambda size: size.world.chats)
    put(
        "size",
        [
            f"- **{largest.peak_mb:.0f} MB of memory and {largest.pass_seconds:.1f} seconds** for a pass over "
            f"{largest.world.chats:,} chats on PostgreSQL, "
            "of which 1,000 are due. Memory does not grow with the table.",
        ],
    )


def put_resources(stage: Stage, starting: Mapping[str, float], served: Mapping[str, Served]) -> None:
    lines = ["", stamp(stage, "Medians"), "", "| | seconds |", "|---|---:|"]
    lines += [f"| `{name}` | {seconds:.2f} |" for name, seconds in starting.items()]
    lines += ["", "| `serve` | memory, MB | of a core |", "|---|---:|---:|"]
    lines += [f"| {what} | {found.memory_mb:.0f} | {found.cpu_percent:.2f} % |" for what, found in served.items()]
    put("resources", [*lines, ""])


def put_together(stage: Stage, speeds: Mapping[str, Together]) -> None:
    lines = ["", stamp(stage, "API of 50 ± 20 ms, 20 requests in flight in each process"), ""]
    lines += ["| the workers | one process, shares/s | four | times as many |", "|---|---:|---:|---:|"]
    lines += [
        f"| {place} | {found.one_per_second:,.0f} | {found.four_per_second:,.0f} | **{found.ratio:.2f}** |"
        for place, found in speeds.items()
    ]
    put("together", [*lines, ""])


def put_webhooks(stage: Stage, found: Mapping[str, webhooks.Taken]) -> None:
    what = f"{webhooks.PER_SECOND} events a second, a pass of 20 requests a second in the same process"
    lines = ["", stamp(replace(stage, client_core=None), what), ""]
    lines += ["| | half took less than | 99 % | not taken | shares/s of the pass |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {kind} | {taken.half:.0f} ms | **{taken.most:.0f} ms** | {taken.refused} | {taken.shares_per_second:.1f} |"
        for kind, taken in found.items()
    ]
    put("webhooks", [*lines, ""])


def put_page(stage: Stage, found: Sequence[Answered]) -> None:
    lines = ["", stamp(replace(stage, client_core=None), f"each view {pages.TIMES} times, one after the other"), ""]
    for world in dict.fromkeys(answered.world for answered in found):
        lines += [f"{world.kind}, {world.chats:,} chats, {world.attempts:,} attempts:", ""]
        lines += ["| view | half took less than | the slowest |", "|---|---:|---:|"]
        lines += [
            f"| {answered.view} | {answered.half:.0f} ms | {answered.slowest:.0f} ms |"
            for answered in found
            if answered.world == world
        ]
        lines.append("")
    put("page", lines)


def put_profile(stage: Stage, parts: Mapping[str, Mapping[str, float]]) -> None:
    names = sorted(
        {name for found in parts.values() for name in found}, key=lambda name: -parts["postgresql"].get(name, 0)
    )
    lines = ["", stamp(stage, "py-spy, 500 samples a second, API of 0 ms, 50 in flight"), ""]
    lines += ["| | PostgreSQL | SQLite |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {parts['postgresql'].get(name, 0):.0f} % | {parts['sqlite'].get(name, 0):.0f} % |"
        for name in names
    ]
    put("profile", [*lines, ""])


def write_plan(name: str, told: Sequence[str]) -> None:
    """Keep a database's plan."""
    PLANS.mkdir(exist_ok=True)
    (PLANS / f"{name}.txt").write_text("\n".join(told) + "\n")


def _picture(speeds: Speeds) -> str:
    """A bar for each contender at each latency; the longest bar of a latency fills its half."""
    row, left, half = 26, 270, 300
    height = row * len(ENTRIES) + 60
    width = left + 2 * half + 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img">',
        "<title>Shares per second, at an API of 0 ms and of 50 ms</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for place, latency in enumerate(LATENCIES):
        x = left + place * (half + 20)
        most = max(speeds[name, latency].per_second for name in ENTRIES)
        note = "0 ms" if latency == 0 else "50 ± 20 ms"
        out.append(f'<text x="{x}" y="24" font-weight="600" fill="#222222">{note}: shares per second</text>')
        for number, (name, entry) in enumerate(ENTRIES.items()):
            y = 40 + number * row
            value = speeds[name, latency].per_second
            length = max(1.0, (half - 60) * value / most)
            color = "#0b6bcb" if entry.ours else "#9aa5b1"
            if place == 0:
                weight = ' font-weight="600"' if entry.ours else ""
                out.append(
                    f'<text x="{left - 10}" y="{y + 14}" text-anchor="end" fill="#222222"{weight}>{entry.title}</text>'
                )
            out.append(f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{row - 8}" rx="2" fill="{color}"/>')
            out.append(f'<text x="{x + length + 5:.1f}" y="{y + 14}" fill="#222222">{value:,.0f}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
