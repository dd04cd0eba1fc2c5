"""Recovery codes: shown once, stored hashed, replaced in one step, and only for whom they were made."""

import re

from core.credentials import CODES, RecoveryCodes
from services.table import Table


def test_each_code_is_one_however_it_is_typed(table: Table) -> None:
    codes = RecoveryCodes(table)
    assert not codes.exist("ada")
    made = codes.replace("ada")
    assert len(set(made)) == CODES
    assert codes.exist("ada")
    assert all(re.fullmatch("[A-Z2-7]{4}(-[A-Z2-7]{4}){3}", code) for code in made)
    assert all(codes.has("ada", code) for code in made)
    assert codes.has("ada", f" {made[1].lower().replace('-', ' ')} ")


def test_what_is_no_code_of_the_users_is_not_taken(table: Table) -> None:
    codes = RecoveryCodes(table)
    made = codes.replace("ada")
    codes.replace("bob")
    for code in ("", "AAAA-AAAA-AAAA-AAAA", made[0][:-1], "x" * 10_000, "\ud800"):
        assert not codes.has("ada", code)
    assert not codes.has("bob", made[0])
    assert not codes.has("carl", made[0])


def test_new_codes_take_the_place_of_the_old_ones(table: Table) -> None:
    codes = RecoveryCodes(table)
    old, new = codes.replace("ada"), codes.replace("ada")
    assert not codes.has("ada", old[0])
    assert codes.has("ada", new[0])
    codes.remove("ada")
    codes.remove("ada")
    assert not codes.has("ada", new[0])


def test_the_table_holds_no_code(table: Table) -> None:
    made = RecoveryCodes(table).replace("ada")
    stored = str(table.client.scan(TableName=table.name)["Items"])
    assert not [code for code in made if code in stored or code.replace("-", "") in stored]
