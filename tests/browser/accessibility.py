"""Faults that keep people from using a part of the page: found by axe-core, which sees what can be measured."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

_AXE = Axe()


def find_faults(page: Page, part: str) -> list[str]:
    """The serious and critical faults of what a selector finds, each with where it is and what to do.

    :raise AssertionError: it finds nothing that could have faults.
    """
    assert page.locator(part).count(), f"there is no {part}"
    # JupyterLab's own buttons say that they are not pressed, which is no serious fault of ours.
    context = {"include": [[part]], "exclude": [["jp-button"]]}
    said = _AXE.run(page, context=context, options={"resultTypes": ["violations"]}).response
    assert said["passes"], f"nothing in {part} was looked at"
    return [
        f"{fault['id']}: {node['html'][:200]}\n{node['failureSummary']}"
        for fault in said["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
