"""The decision about one question: an explicit Deny wins, then any Allow, and what nothing speaks of is denied.

As https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html says of identity policies
in one account. Permissions boundaries, session policies and the policies of an organization are not evaluated; who
has one of the first two is refused everything (`principals`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from localcloud.iam.conditions import UnsupportedPolicyError
from localcloud.iam.documents import Asked, Effect, Policy, Statement


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about a question.

    Attributes:
        asked: the question.
        allowed: the answer.
        rests_on: policy and Sid of every statement that decided it: all that deny, or else all that allow.
        why: for a denial, the end of AWS's sentence about it.
    """

    asked: Asked
    allowed: bool
    rests_on: tuple[tuple[str, str], ...] = ()
    why: str = ""


def decide(policies: Sequence[Policy], asked: Asked) -> Decision:
    """Return the decision of a role's policies. A policy that cannot be evaluated denies, and the reason says so."""
    return _denied_in_doubt(asked, lambda: _decide(policies, asked))


def decide_assuming(policies: Sequence[Policy], trust: Policy, arns: Sequence[str], asked: Asked) -> Decision:
    """Return the decision about becoming a role, which its trust policy has to allow the caller.

    A trust policy that names the caller is enough. One that names the account leaves it to the caller's own policies
    (https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html).

    Args:
        policies: of the caller.
        trust: the trust policy of the role that is to be assumed.
        arns: of the caller: of its session, and of its role.
        asked: the question, about the role that is to be assumed.
    """
    return _denied_in_doubt(asked, lambda: _decide_assuming(policies, trust, arns, asked))


def _denied_in_doubt(asked: Asked, decided: Callable[[], Decision]) -> Decision:
    try:
        return decided()
    except UnsupportedPolicyError as error:
        return Decision(asked, allowed=False, why=f"because {error}")


def _decide(policies: Sequence[Policy], asked: Asked) -> Decision:
    if denies := _speaking(policies, "Deny", asked):
        return Decision(
            asked, allowed=False, rests_on=denies, why="with an explicit deny in an identity-based policy"
        )
    if allows := _speaking(policies, "Allow", asked):
        return Decision(asked, allowed=True, rests_on=allows)
    return Decision(asked, allowed=False, why=f"because no identity-based policy allows the {asked.action} action")


def _speaking(policies: Iterable[Policy], effect: Effect, asked: Asked) -> tuple[tuple[str, str], ...]:
    return tuple(
        (policy.name, statement.sid)
        for policy in policies
        for statement in policy.statements
        if statement.effect == effect and statement.speaks_of(asked)
    )


def _decide_assuming(policies: Sequence[Policy], trust: Policy, arns: Sequence[str], asked: Asked) -> Decision:
    own = _decide(policies, asked)
    _, partition, _, _, account, *_ = arns[0].split(":")
    speaking = [statement for statement in trust.statements if statement.speaks_of(asked)]
    named = _effects_for({*arns, "*"}, speaking)
    delegated = _effects_for({account, f"arn:{partition}:iam::{account}:root"}, speaking)
    if "Deny" in named | delegated:
        return Decision(asked, allowed=False, why="with an explicit deny in the role trust policy")
    denied_by_own = bool(own.rests_on) and not own.allowed
    if "Allow" in named and not denied_by_own:
        return Decision(asked, allowed=True, rests_on=((trust.name, "Principal"),))
    if "Allow" in named | delegated:
        return own
    why = f"because no role trust policy allows the {asked.action} action"
    return Decision(asked, allowed=False, why=why)


def _effects_for(names: set[str], statements: Iterable[Statement]) -> set[Effect]:
    return {
        each.effect for each in statements if any(kind == "AWS" and arn in names for kind, arn in each.principals)
    }
