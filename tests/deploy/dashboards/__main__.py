"""Write the dashboards."""

from __future__ import annotations

from pathlib import Path

from tests.deploy.dashboards import cost, engine, fleet, pipeline, tenant
from tests.deploy.dashboards.builder import text_of

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "monitoring" / "dashboards"
BOARDS = {
    "fleet": fleet.BOARD,
    "tenant": tenant.BOARD,
    "pipeline": pipeline.BOARD,
    "engine": engine.BOARD,
    "cost": cost.BOARD,
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, board in BOARDS.items():
        (FOLDER / f"{name}.json").write_text(text_of(name, board), encoding="utf-8")


if __name__ == "__main__":
    main()
