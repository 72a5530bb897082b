"""A notebook full of attacks, in a real browser: with an ordinary kernel they work, with a sandbox none does."""

import pytest
from attacks import ATTACKS, PRELUDE, Attack
from lab import SLOW_MS, NotebookPage
from playwright.sync_api import expect
from witness import Witness

pytestmark = pytest.mark.timeout(600)

#: Those that JupyterLab alone does not stop.
WORKING = {attack.name for attack in ATTACKS if attack.lab != "stops"}


@pytest.fixture
def proofs(canary, server, open_notebook):
    """A function that runs attacks with a kernel, plays the person, opens the notebook again, and returns proofs."""

    def proofs(kernel: str, attacks: list[Attack], expected: set[str]) -> dict[str, set[str]]:
        cells = [PRELUDE, *(attack.cell(canary.address) for attack in attacks)]
        with open_notebook("attacks.ipynb", kernel, cells) as notebook:
            witness = Witness(notebook.page, canary)
            notebook.open()
            _play(notebook, witness, attacks)
            witness.look_at_page(attacks, expected)
            notebook.save()
            notebook.open()
            for attack in attacks:
                if attack.then == "help":
                    notebook.ask_for_help(attack.name)
            witness.look_at_page(attacks, expected)
            witness.look_at_server(server)
            return witness.proofs

    canary.requests.clear()
    return proofs


def _play(notebook: NotebookPage, witness: Witness, attacks: list[Attack]) -> None:
    """Run all cells, of which one of the last waits for an answer; touch what others show before that one is given."""
    notebook.choose("Run", "Run All Cells")
    question = notebook.panel.locator(".jp-Stdin-input")
    question.wait_for(timeout=SLOW_MS)
    witness.look_for_covers(attacks)
    _touch(notebook, attacks)
    question.press("Enter")
    notebook.wait_until_run()
    _ask(notebook, attacks)


def _touch(notebook: NotebookPage, attacks: list[Attack]) -> None:
    """Click and hover where the bait is, if there is any."""
    for number, attack in enumerate(attacks, start=1):
        output = notebook.output(number)
        bait = output.get_by_text(attack.bait).or_(output.get_by_alt_text(attack.bait)).filter(visible=True)
        for one in bait.all() if attack.then in ("click", "hover") else []:
            for _ in range(2 if attack.then == "hover" else 1):  # it may have moved away under the mouse
                notebook.page.mouse.move(0, 0)
                getattr(one, attack.then)(force=True, no_wait_after=True)
                notebook.wait_until_drawn()


def _ask(notebook: NotebookPage, attacks: list[Attack]) -> None:
    """Ask for a tooltip and for completions at the end of some cells."""
    for number, attack in enumerate(attacks, start=1):
        if attack.then in ("inspect", "complete"):
            code = notebook.cell(number).get_by_role("textbox")
            code.press("End")
            code.press("Shift+Tab" if attack.then == "inspect" else "Tab")
            answer = notebook.page.locator(".jp-Tooltip, .jp-Completer").filter(visible=True)
            expect(answer).to_be_visible(timeout=SLOW_MS)
            notebook.page.keyboard.press("Escape")


def test_attacks_work_with_an_ordinary_kernel(proofs):
    """The control: what does not happen below could happen."""
    attacks = [attack for attack in ATTACKS if attack.name in WORKING or attack.then == "answer"]
    assert WORKING - set(proofs("python3", attacks, WORKING)) == set()


def test_no_attack_works_with_a_sandbox(proofs):
    assert proofs("hyper-python", ATTACKS, set()) == {}
