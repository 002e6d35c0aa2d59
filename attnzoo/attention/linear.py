"""Linear attention: Katharopoulos, Vyas, Pappas and Fleuret 2020 (arXiv 2006.16236)."""

from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float, Key

from attnzoo.attention.contract import Attention, Memory, Positions, ReturnWeights, Site
from attnzoo.attention.facts import Facts
from attnzoo.attention.fast_weight import (
    PROJECTED,
    RECURRENT,
    FastWeights,
    RecurrenceInputs,
    State,
    empty_memory,
)
from attnzoo.attention.projection import Projection, exact_quotient, join_heads, split_heads
from attnzoo.config.attention import LinearConfig
from attnzoo.ops.linear import elu_plus_one, linear_attention
from attnzoo.ops.linear.feature_maps import FeatureMap
from attnzoo.ops.weights import with_weights


class CausalLinearAttention(FastWeights):
    """Causal linear attention phi(q) M / phi(q) . z per head, phi = elu + 1 (equations 16 to 20).

        M_t = M_{t-1} + phi(k)^T v;   z_t = z_{t-1} + phi(k)

    Weights are positive and rows sum to one, as with softmax. ``feature_map`` maps ``... H`` to
    ``... F``; ``num_features`` is F, ``head_dim`` if None.
    """

    facts = Facts(
        paper="Katharopoulos et al. 2020",
        score="φ(q) · φ(k), φ = elu + 1",
        distribution="divided by their sum",
        inputs=("self",),
        output="multi-head",
        causal="recurrence",
        time="T D H",
        memory="T D",
        state="D (H + 1)",
    )

    contract_exceptions: ClassVar[dict[str, str]] = RECURRENT

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        feature_map: FeatureMap = elu_plus_one,
        num_features: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.dim, self.num_heads = dim, num_heads
        self.head_dim = exact_quotient("dim", dim, "num_heads", num_heads)
        self.feature_map = feature_map
        self.num_features = self.head_dim if num_features is None else num_features
        self.query, self.key, self.value, self.out = (
            Projection(dim, dim, rngs=rngs) for _ in range(4)
        )

    def empty_state(self, batch: int) -> State:
        """Return zeros for M and z, which share one array."""
        return empty_memory(batch, self.num_heads, self.num_features, self.head_dim + 1)

    def recur(self, given: RecurrenceInputs) -> tuple[Array, Array | None, State]:
        """Apply causal linear attention to a sequence from a given state (see ``FastWeights``)."""
        q, k, v = given.heads(self)
        found = given.through(linear_attention, q, k, v, feature_map=self.feature_map)
        out, weights, state = found
        return self.out(join_heads(out)), weights, state


class LinearAttention(Attention):
    """phi(Q) (phi(K)^T V) / phi(Q) z over all keys, O(T + S) (eq. 6); masks only mark padding."""

    facts = Facts(
        paper="Katharopoulos et al. 2020",
        score="φ(q) · φ(k), φ = elu + 1",
        distribution="divided by their sum",
        output="multi-head",
        causal="recurrence",
        time="(T + S) D H",
        memory="(T + S) D",
        state="2 S D",
    )

    takes_perturbation = False
    supports = frozenset()
    self_mask = FastWeights.self_mask
    contract_exceptions: ClassVar[dict[str, str]] = PROJECTED

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        key_dim: int | None = None,
        value_dim: int | None = None,
        out_dim: int | None = None,
        feature_map: FeatureMap = elu_plus_one,
        rngs: nnx.Rngs,
    ):
        self.dim, self.num_heads, self.feature_map = dim, num_heads, feature_map
        exact_quotient("dim", dim, "num_heads", num_heads)
        key_dim = dim if key_dim is None else key_dim
        self.query = Projection(dim, dim, rngs=rngs)
        self.key = Projection(key_dim, dim, rngs=rngs)
        self.value = Projection(key_dim if value_dim is None else value_dim, dim, rngs=rngs)
        self.out = Projection(dim, dim if out_dim is None else out_dim, rngs=rngs)

    @classmethod
    def from_config(cls, config: LinearConfig, site: Site, *, rngs: nnx.Rngs) -> Attention:
        """Build the module; :class:`CausalLinearAttention` for causal self-attention."""
        if site.is_self and site.is_causal:
            return CausalLinearAttention.from_config(config, site, rngs=rngs)
        return cls.by_name(config, site, rngs=rngs)

    def prepare_keys(self, keys: Float[Array, "B S D"]) -> Float[Array, "B S K"]:
        """Project the keys."""
        return self.key(keys)

    def prepare_values(self, values: Float[Array, "B S Dv"]) -> Float[Array, "B S F"]:
        """Project the values."""
        return self.value(values)

    def attend(
        self,
        query: Float[Array, "B T D"],
        memory: Memory,
        *,
        positions: Positions | None = None,
        return_weights: ReturnWeights = False,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Any:
        """Read a prepared memory; ``positions`` have no effect."""
        q = split_heads(self.query(query), self.num_heads)
        k, v = (split_heads(x, self.num_heads) for x in (memory.keys, memory.values))
        found = linear_attention(
            q,
            k,
            v,
            feature_map=self.feature_map,
            causal=False,
            mask=memory.mask,
            return_weights=bool(return_weights),
        )
        out, *weights = found if return_weights else (found,)
        context = self.out(join_heads(out))
        return with_weights(context, weights[0], return_weights) if weights else context
