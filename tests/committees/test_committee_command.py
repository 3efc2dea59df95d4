"""``coterie committee``: what it prints, for people and as JSON, and what it says of questions that are none."""

import json

import pytest
from typer.testing import CliRunner

from coterie.cli import app

FIELDS = ("seats", "pack", "privacy", "liars", "offline")


def call(*arguments):
    return CliRunner().invoke(app, ["committee", *arguments])


def answer(*arguments):
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_the_seats_of_a_hundred_peers():
    found = answer("--peers", "100", "--corrupt", "0.2")
    assert tuple(found[field] for field in FIELDS) == (64, 4, 20, 18, 4)
    assert (found["recover"], found["upload_factor"], found["equal_stakes"]) == (24, 16.0, True)
    assert found["privacy_risk"] <= 1e-6
    assert found["liar_risk"] == pytest.approx(0.00062, rel=0.01)


def test_people_are_told_what_the_letters_mean():
    shown = call("--peers", "100", "--corrupt", "1/5", "--seats", "64").stdout
    assert shown.startswith("100 peers with equal stakes, 0.2 of the stake corrupt\n")
    for letter, value, meaning in (("m", 64, "seats"), ("k", 4, "pack"), ("t", 20, "privacy"), ("e", 18, "liars")):
        (line,) = [line for line in shown.splitlines() if line.split()[:1] == [letter]]
        assert line.split()[1:3] == [str(value), f"{meaning}:"]
    assert "offline  4" in shown


def test_stakes_as_a_list_and_from_a_file(tmp_path):
    file = tmp_path / "stakes.txt"
    file.write_text("10\n10, 15\n20 0\n" + "10\n" * 10, encoding="utf-8")
    written = "10,10,15,20,0" + ",10" * 10
    listed = answer("--stakes", written, "--corrupt", "0.1")
    assert listed == answer("--stakes", str(file), "--corrupt", "0.1")
    assert (listed["peers"], listed["equal_stakes"]) == (14, False)
    assert answer("--stakes", "7,7,7,7,7", "--corrupt", "0.2") == answer("--peers", "5", "--corrupt", "0.2")


def test_biscotti():
    found = answer("--biscotti", "--colluding", "0.3", "--p", "0.001")
    assert found["committee"] == 50
    assert found["majority_risk"] < 0.001
    assert found["unmasking_risk"]["3"] == pytest.approx(0.3**3 * (1 - 0.3**3))
    assert "50" in call("--biscotti", "--colluding", "0.3", "--p", "0.001").stdout


def test_the_whole_table_of_biscotti():
    table = answer("--biscotti")["table"]
    assert list(table["0.001"].values()) == [4, 8, 12, 18, 30, 50, 96]
    assert [line.split() for line in call("--biscotti").stdout.splitlines()][2][:4] == ["0.001", "4", "8", "12"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "give either --peers or --stakes"),
        ("--peers 5 --stakes 1,2 --corrupt 0.1", "give either --peers or --stakes"),
        ("--peers 10", "--corrupt is missing"),
        ("--peers 10 --corrupt much", "'much' is no number"),
        ("--peers 10 --corrupt 1e-999999999", "is no number"),
        ("--peers 10 --corrupt 1/0", "is no number"),
        ("--peers 10 --corrupt 0.4", "a corrupt share of 0.4"),
        ("--peers 10 --corrupt 0.3 --seats 5", "no committee stands 0.3"),
        ("--peers 10 --corrupt 0.1 --seats 5 --offline 0.1", "exclude each other"),
        ("--stakes 1,-2 --corrupt 0.1", "neither a list of stakes nor a file"),
        ("--stakes none.txt --corrupt 0.1", "No such file"),
        ("--stakes . --corrupt 0.1", "neither a list of stakes nor a file"),
        ("--stakes 0,0 --corrupt 0.1", "nobody has any stake"),
        ("--biscotti --peers 10", "--peers does not go with --biscotti"),
        ("--peers 10 --corrupt 0.1 --p 0.1", "--p needs --biscotti"),
        ("--biscotti --p 0.1", "--colluding and --p go together"),
        ("--biscotti --colluding 0.5 --p 0.1", "a colluding share of 0.5"),
        ("--biscotti --colluding 0.1 --p 0", "a chance of 0"),
    ],
)
def test_no_question_is_answered_with_a_remedy(arguments, message):
    done = call(*arguments.split())
    assert done.exit_code == 2
    assert message in done.stderr
    assert "what to do: " in done.stderr
    assert done.stdout == ""
    failed = json.loads(call(*arguments.split(), "--json").stdout)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "spec")


@pytest.mark.parametrize("content", ["", "ten\n", "1.5\n2\n", "\xff\xfe", "-3\n"])
def test_a_file_that_holds_no_stakes(tmp_path, content):
    file = tmp_path / "stakes.txt"
    file.write_bytes(content.encode("latin-1"))
    done = call("--stakes", str(file), "--corrupt", "0.1")
    assert done.exit_code == 2
    assert "not a list of whole numbers" in done.stderr
    assert "stakes.txt" in done.stderr
