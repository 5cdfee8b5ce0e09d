"""What several tests of the capture look at."""

import pytest

from storage.legacy import LegacyDatabase, Version


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch) -> list[Version]:
    """Transactions that were begun on the legacy database."""
    taken: list[Version] = []
    begin = LegacyDatabase.begin

    def counted(legacy: LegacyDatabase) -> Version:
        taken.append(begin(legacy))
        return taken[-1]

    monkeypatch.setattr(LegacyDatabase, "begin", counted)
    return taken
