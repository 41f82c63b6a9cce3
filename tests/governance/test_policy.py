"""The policy has a version, and the version pins it."""

from nanoclaw_governance import policy
from nanoclaw_governance.policy import POLICY_VERSION, digest
from nanoclaw_governance.task import Gate

PINNED = {"1.0.0": "42e9633cd4aa3059e7b89e10fda91c1372468e379a096226a4a05c64a0982a9d"}


def test_the_policy_does_not_change_without_its_version() -> None:
    """Whoever changes a table raises POLICY_VERSION and pins the new digest here: tasks and activities carry it."""
    assert digest() == PINNED[POLICY_VERSION]


def test_every_gate_has_its_approver() -> None:
    """Security is approved by security, the others by main; NONE by nobody."""
    assert dict(policy.APPROVER_GROUPS) == {
        "SECURITY": "security",
        "REVOPS": "main",
        "CLAIMS": "main",
        "PRODUCT": "main",
    }
    assert set(Gate) - set(policy.APPROVER_GROUPS) == {"NONE"}


def test_rates_are_those_of_the_design() -> None:
    """Transitions: main 60 a minute, others 30; approvals: main 30, others 20."""
    assert [policy.Policy().rate("transition", group) for group in ("main", "developer")] == [60, 30]
    assert [policy.Policy().rate("approve", group) for group in ("main", "developer")] == [30, 20]
    assert policy.Policy(rate_factor=5).rate("approve", "developer") == 100


def test_any_change_of_a_table_changes_the_digest(monkeypatch) -> None:
    """Each table takes part in the digest."""
    before = digest()
    changes = {
        "PERMITTED": {**policy.PERMITTED, ("DONE", "INBOX"): frozenset({policy.Relation.ADMIN})},
        "NEEDS_REASON": frozenset(),
        "REQUIREMENTS": {},
        "STRICT_REQUIREMENTS": {},
        "APPROVER_GROUPS": {**policy.APPROVER_GROUPS, "SECURITY": "main"},
        "DOCS_REQUIRED": frozenset(),
        "RATES": {"transition": (61, 30), "approve": (30, 20)},
        "MAX_REWORK_ROUNDS": 4,
    }
    for name, value in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(policy, name, value)
            assert digest() != before, name
    assert digest() == before
