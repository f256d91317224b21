"""The benchmark's command: `python -m bench [--quick] [--history] [--only PART ...]`."""

import argparse
import asyncio
import sys
from typing import Final

from bench import pages, plans, profile, report, resources, scale, throughput, webhooks
from bench.stage import KINDS, Stage, staged

PARTS: Final = ("throughput", "scale", "plans", "resources", "together", "webhooks", "page", "profile")


def main() -> None:
    """Parse the command line, measure part after part, and write each down as soon as it is there."""
    parser = argparse.ArgumentParser(
        prog="make bench",
        description="Measure the worker beside what one would otherwise run; write docs/performance.md.",
    )
    parser.add_argument("--quick", action="store_true", help="a look in about two minutes; the numbers are rough")
    parser.add_argument("--history", action="store_true", help="also a ledger of 20 million attempts, on PostgreSQL")
    parser.add_argument("--rounds", type=int, help="rounds of the throughput part (3; 1 with --quick)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 3)
    with staged(quick=options.quick) as stage:
        report.put_versions(stage)
        for part in options.only:
            sys.stderr.write(f"bench: {part}\n")
            _measure(stage, part, rounds=rounds, history=options.history)
    sys.stderr.write(f"bench: written to {report.PAGE}\n")


def _measure(stage: Stage, part: str, *, rounds: int, history: bool) -> None:
    match part:
        case "throughput":
            report.put_throughput(stage, throughput.measure(stage, rounds=rounds), rounds)
        case "scale":
            report.put_scale(stage, scale.measure(stage, scale.worlds(quick=stage.quick, history=history)))
        case "plans":
            for kind in KINDS:
                with stage.chats(kind, 100_000, due=1_000, called=20_000, history=(20_000, 5)) as url:
                    for name, told in asyncio.run(plans.of_a_pass(url)).items():
                        report.write_plan(f"{kind}-{name}", told)
        case "resources":
            served = {f"idle, {kind}": resources.idle_serve(stage, kind) for kind in KINDS}
            served |= {f"20 shares a second, {kind}": resources.serve_at_default_rate(stage, kind) for kind in KINDS}
            report.put_resources(stage, resources.start_up(stage), served)
        case "together":
            report.put_together(stage, resources.together(stage))
        case "webhooks":
            report.put_webhooks(stage, webhooks.measure(stage))
        case "page":
            report.put_page(stage, pages.measure(stage, pages.worlds(quick=stage.quick, history=history)))
        case _:
            report.put_profile(stage, {kind: profile.measure(stage, kind) for kind in KINDS})


if __name__ == "__main__":
    main()
