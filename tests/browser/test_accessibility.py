"""What people need who see, hear or point differently: contrast, names, sizes, focus. Measured in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.hand import choose, drag, start, wait_for_end

pytestmark = pytest.mark.browser

OUTLINE = """() => {
    const {activeElement} = document;
    const shown = activeElement.matches(".visually-hidden") ? activeElement.labels[0] : activeElement;
    return getComputedStyle(shown).outlineStyle;
}"""
"""A hidden file input shows its focus at its label."""
AUDIT = Path(__file__).with_name("audit.js").read_text(encoding="utf-8")


def test_every_state_has_contrast_names_and_sizes(page: Any, clip: Path) -> None:
    assert page.evaluate(AUDIT) == [], "start"
    choose(page, clip)
    drag(page, (0.15, 0.4), (0.3, 0.5))
    for tool in ("text", "point", "brush"):
        page.click(f"[data-tool={tool}]")
        assert page.evaluate(AUDIT) == [], tool
    page.click("summary")
    assert page.evaluate(AUDIT) == [], "settings"
    start(page)
    wait_for_end(page)
    assert page.evaluate(AUDIT) == [], "finished"
    page.keyboard.press("?")
    assert page.evaluate(AUDIT) == [], "help"


def test_the_audit_finds_what_it_looks_for(page: Any) -> None:
    page.evaluate("""() => {
        document.getElementById("try-sample").style.color = "#333";
        Object.assign(document.getElementById("use-camera").style, {transition: "none", borderColor: "#222"});
        document.getElementById("show-key").replaceChildren();
    }""")
    faults = page.evaluate(AUDIT)
    assert [fault.split(" ")[0] for fault in faults] == ["no", "edge", "contrast"]


def test_tab_reaches_every_control_and_shows_where_it_is(page: Any, clip: Path) -> None:
    choose(page, clip)
    seen: set[str] = set()
    page.locator(".brand").focus()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(str(page.evaluate("document.activeElement.id || document.activeElement.dataset.tool || ''")))
        outline = page.evaluate(OUTLINE)
        assert outline != "none" or page.evaluate("document.activeElement === document.body")
        if "find" in seen:
            break
    assert {
        "marks",
        "play",
        "scrub",
        "brush",
        "box",
        "point",
        "text",
        "mask-file",
        "add-object",
        "engine",
        "segment",
        "find",
    } <= seen


def test_the_api_page_shows_every_operation_and_passes_the_audit(page: Any) -> None:
    page.goto(page.url.partition("#")[0] + "docs")
    page.locator("#create_session summary").click()
    assert (
        page.locator("#create_session pre")
        .inner_text()
        .endswith('-F mask=@00000.png "' + page.url.removesuffix("docs") + 'sessions"')
    )
    document = page.evaluate("fetch('openapi.json').then((answer) => answer.json())")
    assert page.locator("details:has(pre)").count() == sum(len(methods) for methods in document["paths"].values())
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate(AUDIT) == []
