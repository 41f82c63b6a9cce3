"""The provider `json`: picks, filters, sorts and sums up data with a JMESPath expression; pure."""

from typing import Any, ClassVar

from pydantic import Field

from nanoclaw_broker.providers import Action, ActionFailed, Effect, Environment, Kind, Level, Params, Provider, Result
from nanoclaw_broker.providers.jmespath_bounded import NotAnExpression, TooMuchWork, compile_expression, search

MOST_EXPRESSION = 4000


class TransformParams(Params):
    """What `transform` takes."""

    expression: str = Field(
        min_length=1,
        max_length=MOST_EXPRESSION,
        description="a JMESPath expression, such as {total: sum(items[*].cents), names: items[*].name}",
    )
    data: Any = Field(description="the JSON value that it is applied to")


class Transform(Action[TransformParams]):
    """Applies the expression to the data."""

    name: ClassVar[str] = "transform"
    level: ClassVar[Level] = Level.L1
    kind: ClassVar[Kind] = Kind.PURE
    description: ClassVar[str] = "apply a JMESPath expression to JSON data: pick, filter, sort, sum up, reshape"
    params = TransformParams
    timeout_seconds: ClassVar[float] = 5.0

    def summary(self, params: TransformParams) -> str:
        """Lengths only: the data is the agent's."""
        return f"an expression of {len(params.expression)} characters"

    async def execute(self, params: TransformParams, effect: Effect) -> Result:
        """Bounded work on the event loop; see `jmespath_bounded`."""
        try:
            return Result(search(compile_expression(params.expression), params.data))
        except NotAnExpression as error:
            raise ActionFailed("INVALID_EXPRESSION", str(error), next_steps=("mend the expression",)) from None
        except TooMuchWork as error:
            raise ActionFailed("TOO_MUCH_WORK", str(error), next_steps=("send less data, or do it in steps",)) from None


def provider(_: Environment) -> Provider:
    """The provider."""
    return Provider("json", "pure transformations of JSON data", (Transform(),))
