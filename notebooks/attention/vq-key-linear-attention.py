# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   kexue:
#     archive: 9844
#     title_zh: VQ一下Key,Transformer的复杂度就变成线性了
#     title_en: Vector-quantize the keys and the Transformer becomes linear
#     date: 2023-11-09
#     prerequisites: [flash-gated-attention-unit, softmax-suits-attention, length-extrapolation-local-attention]
#     minutes: {quick: 1, full: 30}
# ---

# %% [markdown]
# # How can softmax attention be linear, and exact?
#
# *Vector-quantize the keys and the Transformer becomes linear* ·
# <span lang="zh">VQ一下Key,Transformer的复杂度就变成线性了</span>
#
# > **Post** [<span lang="zh">VQ一下Key,Transformer的复杂度就变成线性了</span>](https://kexue.fm/archives/9844) by Su Jianlin
# > (<span lang="zh">苏剑林</span>), 2023-11-09. It explains the paper Transformer-VQ
# > ([arXiv 2309.16354](https://arxiv.org/abs/2309.16354)) by Lucas Lingle. This chapter is an independent work, in words of
# > its own.
#
# **The question.** Attention compares every query with every key, so a text of $n$ characters costs $n^2$ comparisons.
# Linear attention avoids that by giving up the softmax. Suppose that we keep the softmax and give up something else: every
# key has to be one of $c$ fixed vectors. What does attention cost then, how is such a model trained, and what is lost?
#
# **The answer in one sentence.** Tokens with the same key have the same score, so a softmax over $n$ keys is a softmax over
# $c$ codes with counts, exactly and in time $O(nc)$; the price is an error that the distance of the keys from their codes
# bounds, and gradients that are usually cut off beyond two blocks.
#
# **Abstract.** We prove the identity behind the method, its stable and causal forms, a bound for the error, and the exact
# gradient in linear time, which the post holds to be out of reach. Then we measure time and memory against a fused dense
# kernel for up to 65 536 tokens on one core. Small language models show what quantized keys cost in quality.
#
# <p lang="zh"><b>摘要。</b>本章证明该方法背后的恒等式、它的数值稳定形式与因果形式、量化误差的上界，以及线性时间内的精确梯度（原文认为无法做到）。随后在单个CPU核上与融合的稠密注意力比较时间与内存，长度最多65 536。最后用小型语言模型测量Key量化对效果的影响。</p>

# %% tags=["setup", "hide-input"]
# The build writes the cell that installs kexue_lib (only where it is missing) in place of this comment.

# %% tags=["parameters"]
scale = "quick"  # or "full": one GPU, the same code with larger numbers
seed = 0
device = "auto"
shrink = 1  # divides the size of the experiments: a run in miniature

# %% tags=["hide-input"]
from dataclasses import dataclass

import mpmath
import sympy as sp
from IPython.display import display
from sympy import (
    Derivative,
    Function,
    IndexedBase,
    KroneckerDelta,
    Piecewise,
    Rational,
    Sum,
    Symbol,
    cos,
    exp,
    log,
    pi,
    sin,
    tanh,
)

from kexue_lib.derive import Derivation, Integer, Interval, MaxOver, Vector, eq, ge, le, tends

# %% [markdown]
# ## 1 Tokens that share a key share a score
#
# A codebook holds $c$ vectors $C_1, \dots, C_c$, the codes. Each key $k_j$ is replaced by the nearest of them, the code with
# the number $z_j$; this is called vector quantization. Look at one query $q$. It has a score $a_s = \lambda\, q\cdot C_s$
# with each code, and these $c$ numbers are all that it can ever meet: the score of token $j$ is $a_{z_j}$.
#
# So any function of the score may be computed for the codes first, and picked out for the tokens afterwards. In the lines
# below the symbol $\delta$ with two indices is $1$ if they are equal and $0$ otherwise; the machine goes through all ways
# to assign codes. Every numbered line was checked by the machine that made this page, or is marked as defined, assumed or
# cited; the code is one click away.

# %% tags=["hide-input"]
n, c = sp.symbols("n c", integer=True, positive=True)
i, j, s, t = sp.symbols("i j s t", integer=True, positive=True)
x, y, w = sp.symbols("x y w", integer=True, positive=True)  # codes of three tokens
a = IndexedBase("a", shape=(c,), real=True)
v = IndexedBase("v", shape=(n,), real=True)
z = IndexedBase("z", shape=(n,), integer=True, positive=True)
v1, v2, v3 = sp.symbols("v_1 v_2 v_3", real=True)


def over_codes(term):
    """The sum over all codes."""
    return Sum(term, (s, 1, c))


D = Derivation("vq-key-linear-attention", domain={z: Vector(n, Integer(1, 3))})
display(
    D.exact(
        "D1.1",
        eq(exp(a[x]), over_codes(KroneckerDelta(x, s) * exp(a[s]))),
        dims={c: (2, 3, 4)},
        by="pick out one code",
    ),
    D.exact(
        "D1",
        eq(
            exp(a[x]) * v1 + exp(a[y]) * v2 + exp(a[w]) * v3,
            over_codes(exp(a[s]) * (KroneckerDelta(x, s) * v1 + KroneckerDelta(y, s) * v2 + KroneckerDelta(w, s) * v3)),
        ),
        dims={c: (2, 3)},
        by="three tokens with the codes $x$, $y$, $w$ and the values $v_1$, $v_2$, $v_3$: collect by code",
    ),
)

# %% [markdown]
# On the left a term for each token, on the right a term for each code. That is the whole trick. It needs a hard assignment.
# If a token were spread over two codes with shares $u$ and $1 - u$, the exponential of the mean score would be *smaller* than
# the mean of the exponentials, with equality only for a hard assignment (or equal scores). The proof puts the tangent of
# the exponential at the mean.

# %% tags=["hide-input"]
a1, a2, X = sp.symbols("a_1 a_2 X", real=True)
U1, U2 = sp.symbols("u_1 u_2", nonnegative=True)
weight = Symbol("u_1", positive=True)
middle = (weight * a1 + U2 * a2) / (weight + U2)
display(
    D.exact("D1.2", ge(exp(X), 1 + X), tight={X: 0}, by="a convex function lies above its tangent"),
)
first = D["D1.2"].subs(X, a1 - middle).multiply(weight / (weight + U2))
second = D["D1.2"].subs(X, a2 - middle).multiply(U2 / (weight + U2))
display(
    D.exact(
        "D1.3",
        le(exp(middle), (weight * exp(a1) + U2 * exp(a2)) / (weight + U2)),
        made=first.add(second).multiply(exp(middle)).swap_sides(),
        by="a soft assignment with weights $u_1 > 0$, $u_2 \\ge 0$ loses; a hard one, $u_2 = 0$, does not",
    ),
)

# %% [markdown]
# Now a whole text: tokens $1, \dots, n$ with any codes. Collect by code how many tokens there are, $N$, and the sum of their
# values, $U$. Both are written here as functions of how many tokens have been read. Values are numbers; a vector is treated
# entry by entry. This is claim C1.

# %% tags=["hide-input"]
count, U = Function("N"), Function("U")
here = KroneckerDelta(z[j], s)
all_sizes = {"dims": {n: (1, 2, 5, 9), c: 3}, "points": 80}


def over_tokens(term, last=n):
    """The sum over the first tokens."""
    return Sum(term, (j, 1, last))


display(
    D.define("D2.1", eq(count(s, t), over_tokens(here, t)), by="how often code $s$ occurs among the first $t$ tokens"),
    D.define("D2.2", eq(U(s, t), over_tokens(here * v[j], t)), by="the sum of the values of these tokens"),
    D.numeric(
        "D2",
        eq(
            over_tokens(exp(a[z[j]]) * v[j]) / over_tokens(exp(a[z[j]])),
            over_codes(exp(a[s]) * U(s, n)) / over_codes(exp(a[s]) * count(s, n)),
        ),
        uses=["D1"],
        by="softmax attention over $n$ tokens is one over $c$ codes",
        **all_sizes,
    ),
)

# %% [markdown]
# $U$ and $N$ are the same for all queries. To make them costs one pass over the tokens, and then every query costs $c$ scores
# and $c$ values. Nothing was approximated: given quantized keys, this *is* softmax attention.
#
# ## 2 A form that neither overflows nor loses digits
#
# A program must not compute these sums as they stand. The exponentials overflow, and $U$ grows with the length of the text
# until small values are lost beside it. Both troubles go away together: keep the *mean* value $\bar V_s = U_s/N_s$, and let
# the count join the score as its logarithm.

# %% tags=["hide-input"]
N0, N1 = sp.symbols("N M", positive=True)
score, top, mean_value = sp.symbols("a m V", real=True)
Nc = IndexedBase("N", shape=(c,), positive=True)
Vc = IndexedBase(r"\bar{V}", shape=(c,), real=True)
ell = IndexedBase("ell", shape=(c,), real=True)
display(
    D.define("D3.1", eq(Nc[s], exp(ell[s])), by="counts by their logarithms, $\\ell_s = \\ln N_s$"),
    D.exact(
        "D3",
        eq(
            over_codes(exp(a[s]) * Nc[s] * Vc[s]) / over_codes(exp(a[s]) * Nc[s]),
            over_codes(exp(a[s] + ell[s] - top) * Vc[s]) / over_codes(exp(a[s] + ell[s] - top)),
        ),
        by="a softmax over codes of $a_s + \\ln N_s$; any $m$ may be taken off, the largest score for example",
    ),
    D.limit("D3.2", tends(N0 * exp(score), N0, 0, 0), by="a code without tokens drops out: $\\ln N = -\\infty$"),
)

# %% [markdown]
# A mean needs no large sum when it moves. And two softmax parts that were computed separately, with normalizers $Z_1, Z_2$
# and outputs $o_1, o_2$, are joined by their log-normalizers.

# %% tags=["hide-input"]
S, value = sp.symbols("S v", real=True)
Z1, Z2 = sp.symbols("Z_1 Z_2", positive=True)
o1, o2 = sp.symbols("o_1 o_2", real=True)
L1, L2 = sp.symbols("L_1 L_2", real=True)
display(
    D.exact(
        "D3.3",
        eq((N0 * mean_value + S) / (N0 + N1), mean_value + (S - N1 * mean_value) / (N0 + N1)),
        by="$M$ more tokens with the sum $S$ join a mean $V$ of $N$",
    ),
    D.exact(
        "D3.4",
        eq(
            ((Z1 * o1 + Z2 * o2) / (Z1 + Z2)).subs({Z1: exp(L1), Z2: exp(L2)}),
            o1 / (1 + exp(L2 - L1)) + o2 / (1 + exp(L1 - L2)),
        ),
        by="join two parts; only the difference of the log-normalizers $L = \\ln Z$ enters",
    ),
)

# %% [markdown]
# ## 3 One token after another
#
# In a causal model token $i$ sees the tokens up to itself. Then $N$ and $U$ are running sums, and the model is a recurrent
# network: the state is updated at one place, the code of the new token, and read by a softmax over the codes. This is claim
# C2. The state has $c\,d_v$ values and $c$ counts, where $d_v$ is the width of a value; it does not grow.

# %% tags=["hide-input"]
display(
    D.exact(
        "D4.1",
        eq(U(s, t + 1), U(s, t) + KroneckerDelta(z[t + 1], s) * v[t + 1]),
        dims={t: (1, 2, 4)},
        by="the state after one more token",
    ),
    D.exact(
        "D4.2",
        eq(count(s, t + 1), count(s, t) + KroneckerDelta(z[t + 1], s)),
        dims={t: (1, 2, 4)},
        by="the same for the counts",
    ),
    D.numeric(
        "D4",
        eq(
            over_tokens(exp(a[z[j]]) * v[j], i) / over_tokens(exp(a[z[j]]), i),
            over_codes(exp(a[s]) * U(s, i)) / over_codes(exp(a[s]) * count(s, i)),
        ),
        domain={i: Integer(1, 6)},
        dims={n: (6, 9), c: 3},
        points=80,
        by="causal softmax attention at token $i$",
        uses=["D4.1", "D4.2"],
    ),
)

# %% [markdown]
# ## 4 Blocks, and a bias for the near past
#
# A recursion uses a processor badly. So cut the text into blocks of length $l$ and let a whole block of queries read the same
# state. Which tokens may be in it? Those of the query's own block may not, since some of them lie in its future. The post, like
# the paper, treats the block before it densely too. The reason is position: so far a score knows the code of a token but not
# how long ago it was. A bias $B$ that depends on the distance can be added for near tokens, if it is zero for all that went
# into the state. With two dense blocks the distances $0$ to $l$ are free: even the first query of its block reaches back to
# the first token of the block before. This is claim C3.
#
# Let the query be token $r$ of its block, and let $m$ blocks lie before the two dense ones.

# %% tags=["hide-input"]
length, m, r = sp.symbols("l m r", integer=True, positive=True)
distance = Symbol("t", integer=True)
beta = IndexedBase("beta", shape=(length + 1,), real=True)
B = Function("B")
query = (m + 1) * length + r
near = exp(a[z[j]] + B(query - j))
display(
    D.define(
        "D5.1",
        eq(B(distance), Piecewise((beta[distance + 1], distance <= length), (0, True))),
        by="the bias at distance $t \\ge 0$: free within the window, zero beyond",
    ),
    D.numeric(
        "D5",
        eq(
            over_tokens(near * v[j], query) / over_tokens(near, query),
            (Sum(near * v[j], (j, m * length + 1, query)) + over_codes(exp(a[s]) * U(s, m * length)))
            / (Sum(near, (j, m * length + 1, query)) + over_codes(exp(a[s]) * count(s, m * length))),
        ),
        dims={n: 12, length: (1, 2, 3), m: (1, 2), c: 3},
        domain={r: Integer(1, 3)},
        where=[sp.Le(r, length)],
        points=120,
        by="dense attention with a bias is the window, token by token, and the state of the $m$ blocks before it",
        uses=["D2"],
    ),
)

# %% [markdown]
# Zero bias means *unbiased*: the far past is seen, it is not masked. And the cache lags by two blocks, or the tokens of the
# block before would count twice.
#
# Two lines of the post need a correction here. First, it states the condition on the bias as "$B_{ij} = 0$ for $i < j$ or
# $i - j \le l$". Read literally this makes the *near* bias vanish and leaves the far one free. Then two far tokens with the same
# code have different scores, and they cannot be collected: the error below vanishes for all values only if $\beta_1 =
# \beta_2 = 0$. The sentences around it, and the method, want $B_{ij} = 0$ for $i - j > l$; and for $i < j$ the causal mask
# $-\infty$ has to enter the block on the diagonal.

# %% tags=["hide-input"]
b1, b2 = sp.symbols("beta_1 beta_2", real=True)
display(
    D.exact(
        "D5.2",
        eq(
            exp(score + b1) * v1 + exp(score + b2) * v2 - exp(score) * (v1 + v2),
            exp(score) * ((exp(b1) - 1) * v1 + (exp(b2) - 1) * v2),
        ),
        by="two tokens of one code with far biases $\\beta_1$, $\\beta_2$: what collecting them gets wrong",
    ),
)

# %% [markdown]
# Second, in the form without bias the state is introduced as the sum over the blocks *before* $k$ and updated as $U_k = U_{k-1} +
# \Delta_{[k]}^\top V_{[k]}$, with block $k$ itself. Let $S_k$ be what block $k$ adds. Only the sum *up to* $k$ obeys this
# update; the indices $U_{k-1}$ and $U_{k-2}$ in the post's formulas fit that reading too.

# %% tags=["hide-input"]
k = Symbol("k", integer=True, positive=True)
added = IndexedBase("S", shape=(n,), real=True)
upto, before = Function("U_{\\le}"), Function("U_{<}")
some_blocks = {"dims": {n: 6, k: (1, 2, 4)}}
display(
    D.define("D5.3", eq(upto(k), Sum(added[j], (j, 1, k))), by="the sum up to block $k$"),
    D.define("D5.4", eq(before(k), Sum(added[j], (j, 1, k - 1))), by="the sum over the blocks before $k$"),
    D.exact("D5.5", eq(upto(k + 1), upto(k) + added[k + 1]), by="this one has the post's update", **some_blocks),
    D.exact("D5.6", eq(before(k + 1), before(k) + added[k]), by="this one lags by a block", **some_blocks),
)

# %% [markdown]
# ## 5 What is lost by moving a key
#
# The identity is exact for quantized keys. But the keys that the network made were moved to their codes. How far can that
# move the output? The post does not say; a sharp answer is possible. Let no score change by more than $\varepsilon$. Any
# number in $[-\varepsilon, \varepsilon]$ can be written $\varepsilon\sin\tau$, so let the scores change from $b_j$ to $b_j +
# \varepsilon\sin\tau_j$, and the weights of the softmax from $p_j$ to $\hat p_j$.

# %% tags=["hide-input"]
eps = Symbol("epsilon", positive=True)
tau = IndexedBase("tau", shape=(n,), real=True)
p = IndexedBase("p", shape=(n,), positive=True)
phat = IndexedBase(r"\hat{p}", shape=(n,), positive=True)
b = IndexedBase("b", shape=(n,), real=True)
T = Symbol("tau", real=True)
D.domain.update({eps: Interval(0.05, 3)})
growth = exp(eps * sin(tau[j]))
display(
    D.define("D6.1", eq(p[i], exp(b[i]) / over_tokens(exp(b[j]))), by="the weights before"),
    D.define(
        "D6.2",
        eq(phat[i], exp(b[i] + eps * sin(tau[i])) / over_tokens(exp(b[j] + eps * sin(tau[j])))),
        by="the weights after",
    ),
    D.exact("D6.3", eq(over_tokens(p[j]), 1), by="weights add up to one"),
    D.exact(
        "D6.4",
        eq(phat[i] / p[i], exp(eps * sin(tau[i])) / over_tokens(p[j] * growth)),
        by="a softmax forgets the common normalizer",
    ),
)

# %% [markdown]
# The sum in the denominator is a mean of numbers between $e^{-\varepsilon}$ and $e^{\varepsilon}$. So no weight changes by more
# than the factor $e^{2\varepsilon}$, up or down.

# %% tags=["hide-input"]
quarter = pi / 4
squares = {sign: 2 * sin(quarter - sign * T / 2) ** 2 for sign in (1, -1)}
display(
    D.exact("D6.5", ge(X**2, 0), tight={X: 0}, by="a square is not negative"),
    D.exact("D6.6", eq(1 - sin(T), squares[1]), by="one minus a sine is a square"),
    D.exact("D6.7", eq(1 + sin(T), squares[-1]), by="and so is one plus a sine"),
)
at_most_one, at_least_minus_one = (
    D["D6.5"]
    .subs(X, sin(quarter - sign * T / 2))
    .multiply(2)
    .add(D[id])
    .add(sign * sin(T) - squares[sign])
    .multiply(sign)
    for sign, id in ((1, "D6.6"), (-1, "D6.7"))
)
mean_growth = over_tokens(p[j] * growth)
above = at_most_one.swap_sides().subs(T, tau[j]).multiply(eps).apply(exp).multiply(p[j]).sum(j, 1, n)
below = at_least_minus_one.swap_sides().subs(T, tau[j]).multiply(eps).apply(exp).multiply(p[j]).sum(j, 1, n)
display(
    D.exact(
        "D6.8",
        le(mean_growth, exp(eps)),
        made=above.add(D["D6.3"].multiply(exp(eps))),
        opaque=["D6.1"],
        by="the mean is not above the largest",
    ),
    D.exact(
        "D6.9",
        ge(mean_growth, exp(-eps)),
        made=below.add(D["D6.3"].multiply(exp(-eps))),
        opaque=["D6.1"],
        by="nor below the smallest",
    ),
)
up = at_most_one.swap_sides().subs(T, tau[i]).multiply(eps).apply(exp)  # the growth of token i
display(
    D.exact(
        "D6.10",
        le(exp(eps * sin(tau[i])) / mean_growth, exp(2 * eps)),
        made=up.add(D["D6.9"].swap_sides().multiply(exp(2 * eps))).multiply(1 / mean_growth),
        opaque=["D6.1"],
        by="divide by the mean: $\\hat p_i/p_i \\le e^{2\\varepsilon}$",
        uses=["D6.4"],
    ),
)
down = at_least_minus_one.swap_sides().subs(T, tau[i]).multiply(eps).apply(exp)
display(
    D.exact(
        "D6.11",
        ge(exp(eps * sin(tau[i])) / mean_growth, exp(-2 * eps)),
        made=down.add(D["D6.8"].swap_sides().multiply(exp(-2 * eps))).multiply(1 / mean_growth),
        opaque=["D6.1"],
        by="and $\\hat p_i/p_i \\ge e^{-2\\varepsilon}$",
        uses=["D6.4"],
    ),
)

# %% [markdown]
# What matters for the output is how much weight moves in total, the distance in total variation, $\frac12\sum_j |\hat p_j -
# p_j|$: it is what some set of tokens gains. Let that set have the weight $P$ before. It gains most if all its scores rise by
# $\varepsilon$ and all others fall by $\varepsilon$. This is a problem with one variable, and its maximum has a closed form.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class OneAgainstAll:
    """A single vector: its first entry, and one for all others."""

    first: sp.Expr
    others: sp.Expr

    def corners(self, sizes):
        """The vector at a given length."""
        entries = [self.first.subs(n, sizes[n]), *[self.others] * (sizes[n] - 1)]
        return [[mpmath.mpmathify(entry.evalf(50)) for entry in entries]]

    def draw(self, rng, sizes):
        """The same."""
        return self.corners(sizes)[0]

    def __str__(self):
        return f"({self.first}, {self.others}, …)"


one = sp.Integer(1)
worst_case = {  # the first token has the weight P = 1/(1 + e) before
    eps: 1,
    b: OneAgainstAll(log(n - 1) - 1, 0 * one),
    tau: OneAgainstAll(pi / 2, -pi / 2),
    v: OneAgainstAll(one, -one),
}
P, A1, A2 = sp.symbols("P X Y", positive=True)
odds = Symbol("omega", positive=True)  # P/(1 − P)
gain = Function("G")
P_in = {P: Interval(0, 1)}
best = 1 / (1 + exp(eps))
display(
    D.exact(
        "D6.12",
        eq(Derivative(A1 / (A1 + A2), A1), A2 / (A1 + A2) ** 2),
        by="the share $X/(X + Y)$ of a set rises with its own mass $X$",
    ),
    D.exact(
        "D6.13",
        eq(Derivative(A1 / (A1 + A2), A2), -A1 / (A1 + A2) ** 2),
        by="and falls with the mass $Y$ of the others: so two levels are the worst case",
    ),
    D.define(
        "D6.14",
        eq(gain(P), P * exp(eps) / (P * exp(eps) + (1 - P) * exp(-eps)) - P),
        by="what a set of weight $P$ gains then",
    ),
    D.exact("D6.15", eq(gain(best), tanh(eps / 2)), by="its value at $P = 1/(1 + e^\\varepsilon)$"),
    D.exact(
        "D6.16",
        eq(
            tanh(eps / 2) - gain(P),
            (exp(eps) - 1) * (1 - P * (exp(eps) + 1)) ** 2 / ((exp(eps) + 1) * (1 + P * (exp(2 * eps) - 1))),
        ),
        by="what is missing to that value is a square over something positive",
        domain=P_in,
    ),
    D.numeric(
        "D6",
        le(over_tokens(sp.Abs(phat[j] - p[j])) / 2, tanh(eps / 2)),
        dims={n: (2, 3, 5)},
        points=60,
        tight=worst_case,
        by="the total variation, for any scores and any change of them",
        uses=["D6.15", "D6.16"],
    ),
)

# %% [markdown]
# The output moves by no more than twice that, times the largest value. And $\varepsilon$ is at most $\lambda\,\|q\|$ times the
# largest distance $\|e\|$ of a key from its code, by the inequality of Cauchy and Schwarz (here in the plane: what is missing
# to equality is a square). That is why Transformer-VQ normalizes queries and keys: it keeps $\|q\|$ fixed.

# %% tags=["hide-input"]
p1, p2, e1, e2 = sp.symbols("q_1 q_2 e_1 e_2", real=True)
display(
    D.numeric(
        "D6.17",
        le(
            sp.Abs(over_tokens((phat[j] - p[j]) * v[j])),
            2 * tanh(eps / 2) * MaxOver(sp.Abs(v[j]), (j, 1, n)),
        ),
        dims={n: (2, 3, 5)},
        points=60,
        tight=worst_case,
        by="how far the output can move",
        uses=["D6"],
    ),
    D.exact(
        "D6.18",
        eq((p1**2 + p2**2) * (e1**2 + e2**2) - (p1 * e1 + p2 * e2) ** 2, (p1 * e2 - p2 * e1) ** 2),
        by="so $|q\\cdot e| \\le \\|q\\|\\,\\|e\\|$",
    ),
)

# %% [markdown]
# ## 6 Gradients: is an exact one out of reach?
#
# Choosing the nearest code has no useful derivative. The straight-through estimator pretends: forward the key is its code
# $\hat k_j$, backward the gradient with respect to $\hat k_j$ goes to $k_j$ as if nothing had happened. Here the post sees a
# wall. Tokens of one code have one key but *different* gradients; the trick that collects tokens by code works forward only;
# and so, it says, there is no linear scheme if one insists on exact gradients. This is claim C4. Let us see what is needed.
#
# Take numbers for queries $q_i$, keys $\hat k_j$ and values $v_j$; for vectors the products become inner or outer products. Let
# $g_i$ be the derivative of the loss by the output $o_i$.

# %% tags=["hide-input"]
q = IndexedBase("q", shape=(n,), real=True)
g = IndexedBase("g", shape=(n,), real=True)
kh = IndexedBase(r"\hat{k}", shape=(n,), real=True)
Z, o, loss = Function("Z"), Function("o"), Symbol("L", real=True)
small = {entry: Vector(n, Interval(-1.5, 1.5)) for entry in (q, g, kh, v)}
seen = Sum(exp(q[i] * kh[j]), (j, 1, i))
at, of = sp.symbols("i j", integer=True, positive=True)
display(
    D.define("D7.1", eq(Z(i), seen), by="normalizer of query $i$"),
    D.define("D7.2", eq(o(i), Sum(exp(q[i] * kh[j]) * v[j], (j, 1, i)) / Z(i)), by="output of causal attention"),
    D.define("D7.3", eq(loss, Sum(g[i] * o(i), (i, 1, n))), by="a loss with $\\partial L/\\partial o_i = g_i$"),
)


def key_gradient(token):
    """What straight-through estimation wants for the key of a token."""
    share = exp(q[i] * kh[token]) / Z(i)
    return Sum(share * (g[i] * v[token] - g[i] * o(i)) * q[i], (i, token, n))


display(
    D.exact(
        "D7.4",
        eq(Derivative(loss, kh[2]), key_gradient(2)),
        dims={n: 3},
        domain=small,
        by="three tokens, by algebra",
    ),
    D.autograd(
        "D7.5",
        eq(Derivative(loss, kh[2]), key_gradient(2)),
        dims={n: 5},
        domain=small,
        points=12,
        by="five tokens, by automatic differentiation",
    ),
)

# %% [markdown]
# Every later query contributes to every key: that looks like $n^2$ terms. And the post is right that tokens of one code must
# not be treated alike. Two tokens suffice to see it. Let both have the same code. Their gradients are opposite. What the
# code gets, their sum, is zero.

# %% tags=["hide-input"]
q2, g2, key = sp.symbols("q_2 g_2 k", real=True)
key1, key2 = sp.symbols("k_1 k_2", real=True)
output = (exp(q2 * key1) * v1 + exp(q2 * key2) * v2) / (exp(q2 * key1) + exp(q2 * key2))
opposite = g2 * q2 * (v1 - v2) / 4
display(
    D.exact(
        "D7.6",
        eq(sp.Subs(Derivative(g2 * output, key1), (key1, key2), (key, key)), opposite),
        by="the gradient of the first key, where both keys are $k$",
    ),
    D.exact(
        "D7.7",
        eq(sp.Subs(Derivative(g2 * output, key2), (key1, key2), (key, key)), -opposite),
        by="the gradient of the second",
    ),
)

# %% [markdown]
# But look at [D7.4](#D7.4) again. The weight of a key depends on the key only through its code, $p_{i,s} = e^{q_i C_s}/Z_i$.
# So the sums over the later queries can be collected *by code*, into two running sums: $G_s$, which will meet the value of the
# token, and $h_s$, which will not. The value $v_j$, which makes the gradients of one code different, stands outside the sum.

# %% tags=["hide-input"]
C = IndexedBase("C", shape=(c,), real=True)
weights_of = Function("p")
out_of = IndexedBase("o", shape=(n,), real=True)
Zs = IndexedBase("Z", shape=(n,), positive=True)
G, hs = Function("G"), Function("h")
first_query = Symbol("j", integer=True, positive=True)
later = {"dims": {n: 4, j: (1, 2, 3), c: 2}}
display(
    D.define("D7.8", eq(weights_of(i, s), exp(q[i] * C[s]) / Zs[i]), by="weight of one key with code $s$"),
    D.define("D7.9", eq(G(s, j), Sum(weights_of(i, s) * q[i] * g[i], (i, j, n))), by="collected over later queries"),
    D.define("D7.10", eq(hs(s, j), Sum(weights_of(i, s) * g[i] * out_of[i] * q[i], (i, j, n))), by="likewise"),
    D.exact(
        "D7",
        eq(
            Sum(weights_of(i, s) * (g[i] * v[j] - g[i] * out_of[i]) * q[i], (i, j, n)),
            G(s, j) * v[j] - hs(s, j),
        ),
        by="the gradient of token $j$, if $s$ is its code",
    ),
    D.exact("D7.11", eq(G(s, j), G(s, j + 1) + weights_of(j, s) * q[j] * g[j]), by="one step back", **later),
    D.exact(
        "D7.12",
        eq(hs(s, j), hs(s, j + 1) + weights_of(j, s) * g[j] * out_of[j] * q[j]),
        by="the same for $h$",
        **later,
    ),
)

# %% [markdown]
# One sweep from the last token to the first keeps $G$ and $h$ for every code, and gives each token its own exact gradient.
# **The cost of the exact straight-through gradient is linear in $n$.** (With a bias, the sweep takes the pairs beyond the two
# dense blocks; those inside are few, and are treated one by one.) So the claim is right about the trick, and too strong in
# general.
#
# Is it of use? With vectors $G_s$ is a matrix of $d_k \times d_v$ numbers, where $d_k$ is the width of a key, and the sweep
# costs $c\,d_k d_v$ multiply-adds for a token. The pairs of dense attention cost $\frac n2 (d_k + d_v)$. The sweep pays when the
# text is longer than

# %% tags=["hide-input"]
size, dk, dv = sp.symbols("n d_k d_v", positive=True)
codes = Symbol("c", positive=True)
break_even = Symbol(r"n_{\mathrm{sweep}}", positive=True)
display(
    D.define("D7.13", eq(break_even, 2 * codes * dk * dv / (dk + dv)), by="a length"),
    D.exact(
        "D7.14",
        eq(break_even * (dk + dv) / 2, codes * dk * dv),
        by="at this length pairs and sweep cost the same for a token",
    ),
    D.exact(
        "D7.15",
        eq(break_even, Rational(1048576, 9)),
        put={codes: sp.Integer(512), dk: sp.Integer(128), dv: sp.Integer(1024)},
        by="about 116 500 tokens for the sizes of the paper",
    ),
)

# %% [markdown]
# At the lengths that people train on the sweep is no help. The post's practical conclusion stands; it is a decision about cost
# and not a necessity.
#
# ## 7 How it is trained
#
# Transformer-VQ stops the gradient of the cache: the two dense blocks pass theirs back to keys and values, the state does
# not. The post argues that the nearest two blocks are the important part, and that Transformer-XL does the same with its
# memory (claim C5). The codebook does not learn by gradients. It follows the keys by moving averages with a rate $\gamma$ near
# one: $m_s$ of the sum of the keys with code $s$, and $N_s$ of their number; the code is $m_s/N_s$. In other words, it moves
# towards the mean of its new keys, by a share of its own. And the keys are held near their codes by a small loss.

# %% tags=["hide-input"]
gamma = Symbol("gamma", positive=True)
code, new_sum, new_count, old_count = sp.symbols("C S M N", positive=True)
share = (1 - gamma) * new_count / (gamma * old_count + (1 - gamma) * new_count)
key_vector, held = sp.symbols("k C", real=True)
members = IndexedBase("k", shape=(n,), real=True)
centre = Symbol("C", real=True)
display(
    D.exact(
        "D8",
        eq(
            (gamma * old_count * code + (1 - gamma) * new_sum) / (gamma * old_count + (1 - gamma) * new_count),
            code + share * (new_sum / new_count - code),
        ),
        domain={gamma: Interval(0.01, 0.99)},
        by="the code moves towards the mean $S/M$ of its new keys",
    ),
    D.exact(
        "D8.1",
        eq(
            Sum((members[j] - centre) ** 2, (j, 1, n)),
            Sum((members[j] - Sum(members[t], (t, 1, n)) / n) ** 2, (j, 1, n))
            + n * (Sum(members[t], (t, 1, n)) / n - centre) ** 2,
        ),
        dims={n: (2, 3)},
        by="why the mean: it is nearest to its keys, in the sum of squares",
    ),
    D.exact(
        "D8.2",
        eq(Derivative((key_vector - held) ** 2, key_vector), 2 * (key_vector - held)),
        by="the commitment loss pulls a key towards its code",
    ),
)

# %% [markdown]
# ## 8 Positions: a bias, but no rotation
#
# The bias lives in the window only. Could positions enter the far part too? Rotary positions turn query and key by angles
# proportional to their places. In one plane, with turning rate $\theta$, the score depends on the distance:

# %% tags=["hide-input"]
x1, x2, y1, y2, theta = sp.symbols("q_1 q_2 k_1 k_2 theta", real=True)
place_q, place_k, far, window = sp.symbols("i j u w", real=True)
rotated = Function("r", real=True)
D.domain.update({theta: Interval(0.05, 1)})
turn = Symbol("t", real=True)


def rotate(vector, angle):
    """A vector of the plane, turned."""
    return (
        vector[0] * cos(angle) - vector[1] * sin(angle),
        vector[0] * sin(angle) + vector[1] * cos(angle),
    )


def inner(one, other):
    """Inner product."""
    return one[0] * other[0] + one[1] * other[1]


display(
    D.define(
        "D9.1",
        eq(rotated(turn), (x1 * y1 + x2 * y2) * cos(turn * theta) + (x1 * y2 - x2 * y1) * sin(turn * theta)),
        by="a score at distance $t$",
    ),
    D.exact(
        "D9.2",
        eq(
            inner(rotate((x1, x2), place_q * theta), rotate((y1, y2), place_k * theta)),
            rotated(place_q - place_k),
        ),
        by="rotating both gives a function of the distance $i - j$",
    ),
    D.exact(
        "D9",
        eq(
            rotated(turn) - rotated(far),
            2
            * sin((turn - far) * theta / 2)
            * (
                (x1 * y2 - x2 * y1) * cos((turn + far) * theta / 2)
                - (x1 * y1 + x2 * y2) * sin((turn + far) * theta / 2)
            ),
        ),
        by="two tokens of one code at the distances $t$ and $u$",
        domain={turn: Interval(0, 9), far: Interval(0, 9)},
    ),
)

# %% [markdown]
# The difference is not zero: tokens of one code have as many scores as distances, and nothing can be collected. Quantizing the
# rotated keys instead would need codes for every angle. ReRoPE, a variant by the same author, clips the distance: all tokens
# beyond a window $w$ are treated as if they were at the distance $w$. Then the rotation is the same for all of them, and can be
# given to the query once. Outside the window the codes stay as they are; inside, rotary scores are computed token by token.
# This is claim C7.

# %% tags=["hide-input"]
display(
    D.exact(
        "D9.3",
        eq(rotated(window), inner(rotate((x1, x2), window * theta), (y1, y2))),
        by="a constant distance: turn the query, leave the codes",
    ),
)

# %% [markdown]
# ## 9 What it costs
#
# Count multiply-adds for a token. Dense causal attention meets $n/2$ keys on average, with $d_k$ for a score and $d_v$ for a
# value. The window reaches back $\frac32 l$ tokens on average. The codes cost $c\,d_k$ to assign the key, $c\,d_k$ for scores,
# $c\,d_v$ for values; adding the value to its code costs $d_v$.

# %% tags=["hide-input"]
block = Symbol("l", positive=True)
dense_cost, vq_cost, meet = Function("A"), Symbol("Q", positive=True), Symbol("n_*", positive=True)
width = Symbol("d", positive=True)
display(
    D.define("D10.1", eq(dense_cost(size), size * (dk + dv) / 2), by="dense, for a token of $n$"),
    D.define(
        "D10.2",
        eq(vq_cost, 3 * block * (dk + dv) / 2 + codes * (2 * dk + dv) + dv),
        by="quantized keys, for a token: $n$ is not in it",
    ),
    D.define("D10.3", eq(meet, 3 * block + 2 * (codes * (2 * dk + dv) + dv) / (dk + dv)), by="a length"),
    D.exact("D10", eq(dense_cost(meet), vq_cost), by="at this length both cost the same"),
    D.exact("D10.4", eq(meet, 3 * block + 3 * codes + 1), put={dk: width, dv: width}, by="$n_*$ for equal widths"),
    D.exact(
        "D10.5",
        eq(Sum(codes * dv, (k, 1, m)), codes / block * size * dv),
        put={size: m * block},
        by="memory: the states of all $m = n/l$ blocks take $c/l$ times as much as the values",
    ),
)

# %% [markdown]
# For $l = c = 512$ this is 3073 tokens. By this count quantized keys win early. But a count is no clock: dense attention is one
# fused kernel, tuned for years. Section 13 will ask the clock.
#
# ## 10 What the window adds to the codes
#
# Claim C6 says that the bias is no luxury. A matrix of weights that is made from $c$ codes has rank $c$ at most, however many
# tokens there are: among $c + 1$ tokens two have the same code (the pigeonhole principle), and their columns are equal. Here
# for two codes and three tokens, in all ways to assign them. The rows belong to three queries.

# %% tags=["hide-input"]
aa, bb, gg = (IndexedBase(name, shape=(c,), real=True) for name in ("a", "b", "g"))
rows = [[exp(row[token]) for token in (x, y, w)] for row in (aa, bb, gg)]
near_bias = Symbol("beta", real=True)
with_bias = sp.Matrix(
    [[exp(row[1] + (near_bias if r_ == c_ else 0)) for c_ in range(3)] for r_, row in enumerate((aa, bb, gg))]
)
display(
    D.exact("D11", eq(sp.Matrix(rows).det(), 0), dims={c: 2}, by="three queries, three tokens, two codes"),
    D.exact(
        "D11.1",
        eq(with_bias.det(), exp(aa[1] + bb[1] + gg[1]) * (exp(near_bias) - 1) ** 2 * (exp(near_bias) + 2)),
        dims={c: 2},
        by="one code only, but a bias $\\beta$ for a token's own position: the determinant is not zero",
    ),
)

# %% [markdown]
# The bias of the window restores the full rank. It says *where* a near token is; the far ones remain a bag of codes.

# %% [markdown]
# ## 11 What will be tested, and by which rule
#
# The claims of the post get their rules here, before anything is measured. A claim *holds* when every condition of its rule is
# met, *partly* when some are, and *fails* when none is. A claim that this run cannot test stays *open*. Times are those of the
# processor, not of the clock on the wall, and their rules have wide margins, since a busy machine is slower.
#
# The sizes of the networks and the thresholds of C5 to C9a were set on pilot runs with other seeds than those of this page. In the
# first pilots more networks were trained for a shorter time, among them some without a bias, and the threshold of C6 was higher:
# so small a network uses its bias less than we had thought.

# %% tags=["experiment", "hide-input"]
import math
import time
import weakref

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kexue_lib import lab, vq
from kexue_lib.lab import Criterion, settled

run = lab.Run(scale=scale, seed=seed, device=device)
claims = lab.Claims("vq-key-linear-attention")
SAMPLED = ("proved", "sampled")
few, many = run.pick(quick=(16, 64), full=(128, 512))  # codes of the two quantized networks
F64 = torch.float64

claims.register(
    "C1",
    r"with quantized keys $e^{QC^\top}(\Delta^\top V)$ is softmax attention, in time $O(n)$ for a fixed codebook",
    kind="exact",
    how="proved for three tokens, sampled for more; computed in both precisions; timed for $n = 2^{10}, \\dots, 2^{16}$",
    criteria=[
        settled(D["D1"], "three tokens, two or three codes", accept=SAMPLED),
        settled(D["D2"], "any number of tokens", accept=SAMPLED, assuming=["D1"]),
        Criterion(
            "float64", "largest difference from dense attention at most $10^{-10}$", lambda e: e["float64"] <= 1e-10
        ),
        Criterion("float32", "in single precision at most $10^{-4}$", lambda e: e["float32"] <= 1e-4),
        Criterion(
            "growth", "time for twice the length: at most 2.2 times, on average", lambda e: e["time growth"] <= 2.2
        ),
        Criterion("memory", "memory for twice the length: at most 2.2 times", lambda e: e["memory growth"] <= 2.2),
        Criterion("dense", "dense attention: more than 3 times", lambda e: e["dense growth"] > 3),
    ],
    clocked=["time growth", "dense growth"],
)
claims.register(
    "C2",
    "the causal form is a recursion with a state of fixed size, and has a block form",
    kind="exact",
    how="proved and sampled; streams in random pieces against one call",
    criteria=[
        settled(D["D4.1"], "the recursion of the state"),
        settled(D["D4"], "its output", accept=SAMPLED, assuming=["D4.1", "D4.2"]),
        Criterion("split", "any split of the stream: difference at most $10^{-10}$", lambda e: e["splits"] <= 1e-10),
        Criterion("blocks", "any length of the blocks: the same", lambda e: e["blocks"] <= 1e-10),
        Criterion("state", "the state after 4096 tokens is as large as after 1024", lambda e: e["state growth"] == 1),
    ],
)
claims.register(
    "C3",
    "a bias within a window of one block keeps it linear, with two dense blocks",
    kind="exact",
    how="sampled; dense attention with the same bias; timed",
    criteria=[
        settled(D["D5"], "the block form", accept=SAMPLED, assuming=["D2", "D1"]),
        Criterion("float64", "with a bias: difference at most $10^{-10}$", lambda e: e["bias"] <= 1e-10),
        Criterion(
            "growth", "time for twice the length: at most 2.2 times", lambda e: e["time growth with bias"] <= 2.2
        ),
    ],
    evidence=["D5.2"],
    clocked=["time growth with bias"],
)
claims.register(
    "C4",
    "with straight-through estimation the trick serves inference only; for exact gradients there is no linear scheme",
    kind="exact",
    how="two tokens of one code; the sweep of D7 proved and timed",
    criteria=[
        settled(D["D7.6"], "tokens of one code have different gradients: the trick gives none"),
        Criterion(
            "no scheme",
            "an exact gradient costs more than 2.5 times as much for twice the length",
            lambda e: e["growth of the exact gradient"] > 2.5,
        ),
    ],
    evidence=["D7", "D7.4"],
    clocked=["growth of the exact gradient"],
)
claims.register(
    "C5",
    "stopping the gradient of the cache keeps the important part",
    kind="heuristic",
    how="gradient of the key weights of the trained model, texts of 8 times its length: stopped against exact",
    criteria=[
        Criterion("direction", "cosine of the two gradients at least 0.6", lambda e: e["cosine"] >= 0.6),
        *run.pick(
            quick=[],
            full=[
                Criterion(
                    "training",
                    "trained with exact gradients: at most 0.03 nats better",
                    lambda e: e["gain of exact training"] <= 0.03,
                )
            ],
        ),
    ],
)
claims.register(
    "C6",
    "without the bias the model cannot tell near from far",
    kind="heuristic",
    how=f"rank of the weights; the model of C9a with $c = {few}$, its bias set to zero",
    criteria=[
        settled(D["D11"], "three tokens with two codes: rank below 3", accept=SAMPLED),
        Criterion("rank", "200 tokens, 16 codes: rank at most 16", lambda e: e["rank of the codes"] <= 16),
        Criterion("window", "with a window: rank 200", lambda e: e["rank with a window"] == 200),
        Criterion(
            "use",
            f"trained, {few} codes: without its bias at least 0.005 nats worse",
            lambda e: e["added without bias"] >= 0.005,
        ),
    ],
    evidence=["D11.1"],
)
claims.register(
    "C7",
    "it does not go with rotary positions, but with ReRoPE or a bias",
    kind="exact",
    how="proved in one plane",
    criteria=[
        settled(D["D9"], "rotary: scores of one code differ by distance"),
        settled(D["D9.3"], "ReRoPE: beyond the window they do not"),
    ],
)
claims.register(
    "C8a",
    "a finite set of keys probably gives good length extrapolation",
    kind="heuristic",
    how="tested on 8 times the length of the training (the same characters): cross-entropy added by the length",
    criteria=[
        Criterion(
            "extrapolation",
            f"quantized keys (mean of $c = {few}, {many}$) lose at most half as much as dense ones",
            lambda e: e["added, quantized"] <= 0.5 * e["added, dense"],
        )
    ],
)
claims.register(
    "C8b",
    "a pretrained model can be converted by k-means of its keys",
    kind="heuristic",
    how="the dense model of C8a, codes from k-means of its keys on training text, no training after",
    criteria=[
        Criterion("many", f"{many} codes: at most 0.05 nats worse", lambda e: e["converted, many codes"] <= 0.05),
        Criterion("few", f"{few} codes: at most 0.15 nats worse", lambda e: e["converted, few codes"] <= 0.15),
    ],
)
claims.register(
    "C8c",
    "finite scalar quantization is a poor substitute at $c = 512$",
    kind="empirical",
    how="not tested",
    open_because="the post names no experiment; it belongs to the chapter on finite scalar quantization",
)
claims.register(
    "C9a",
    "a small language model with quantized keys is about as good as the dense one",
    kind="empirical",
    how=f"next characters, $c = {few}$ and ${many}$; moving averages, stopped cache",
    criteria=[
        Criterion(
            "loss",
            "at the length of the training at most 0.08 nats worse",
            lambda e: max(e["loss with few codes"], e["loss with many codes"]) <= 0.08,
        ),
        Criterion(
            "use",
            f"{few} codes: perplexity of their use at least ${few}/3$",
            lambda e: e["least perplexity"] >= few / 3,
        ),
        Criterion(
            "error", f"{many} codes: relative error in layer 1 at most 0.05", lambda e: e["error in layer 1"] <= 0.05
        ),
    ],
)
claims.register(
    "C9b",
    "Enwik8, PG-19 and ImageNet64 with $c = 512$ and up to 1.3 billion parameters: competitive",
    kind="empirical",
    how="results of the paper",
    open_because="needs these data and a cluster",
)
claims.table()

# %% [markdown]
# ## 12 The identity on a machine
#
# First a look. Figure 1 shows attention weights over quantized keys for 48 tokens and 6 codes. On the left the tokens stand in
# their order. On the right the columns are sorted by code, and the matrix falls into stripes: it holds only as many different
# columns as codes. All the rest of this chapter follows from these stripes.


# %% tags=["experiment", "hide-input"]
def problem(name, n, c, d, *, heads=1, dtype=torch.float32, grad=False):
    """Random queries, a codebook, codes, values and quantized keys."""
    generator = run.generator(name)
    q, keys, values = (torch.randn(1, heads, n, d, generator=generator, dtype=dtype).to(run.device) for _ in range(3))
    codebook = torch.randn(heads, c, d, generator=generator, dtype=dtype).to(run.device)
    assigned, k_hat = vq.vq_assign(keys, codebook)
    if grad:
        for leaf in (q, values, k_hat):
            leaf.requires_grad_()
    return q, codebook, assigned, values, k_hat, keys


picture_q, _, picture_codes, _, picture_k, _ = problem("picture", 48, 6, 16)
picture = torch.softmax(picture_q @ picture_k.mT / 4, -1)[0, 0].cpu()
order = picture_codes[0, 0].cpu().argsort(stable=True)
with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.7))
    for axes, image, label in ((left, picture, "token"), (right, picture[:, order], "token, sorted by code")):
        axes.imshow(image, cmap="Blues", aspect="equal", interpolation="nearest", vmin=0, vmax=picture.quantile(0.98))
        axes.set(xlabel=label, ylabel="query")
        axes.grid(False)
    lab.style.title(left, "In the order of the text")
    lab.style.title(right, "Sorted by code")
lab.figure(
    fig,
    name="stripes",
    title="Quantized keys leave one column for each code",
    caption=(
        "**Figure 1.** Softmax weights of 48 random queries and quantized keys, 6 codes. Sorting the tokens by their code shows "
        "that there are only as many different columns as codes."
    ),
    alt="Two heat maps of 48 by 48 weights. The left looks irregular, the right one consists of vertical bands of equal columns.",
    data={"different columns": [int(picture_codes.unique().numel())]},
)

# %% [markdown]
# The fast routine is `kexue_lib.vq.vq_attention`. It holds the scores of the window and of the codes side by side, takes one
# softmax, and carries the cache from chunk to chunk. We compare it with dense attention for many lengths of blocks, with and
# without a bias, and as a stream that arrives in random pieces. The exact gradient of section 6 is compared with the one of
# dense attention, whose keys are separate tensors.

# %% tags=["experiment", "hide-input"]


def dense(q, k_hat, v, bias=None):
    """Dense causal attention, written out."""
    count = q.shape[2]
    gap = torch.arange(count, device=q.device)[:, None] - torch.arange(count, device=q.device)
    scores = q @ k_hat.mT / math.sqrt(q.shape[3])
    if bias is not None:
        scores = scores + torch.where(gap < bias.shape[1], bias[:, gap.clamp(0, bias.shape[1] - 1)], 0)
    return torch.softmax(scores.masked_fill(gap < 0, -math.inf), -1) @ v


def off(one, other):
    """Largest difference."""
    return float((one - other).abs().max())


q64, book64, codes64, v64, k64, _ = problem("identity", 300, 24, 16, heads=2, dtype=F64)
truth = dense(q64, k64, v64)
rng = run.rng("blocks and pieces")
differences = {"blocks": 0.0, "bias": 0.0, "splits": 0.0}
for length in sorted({1, 7, 64, 300, *rng.integers(2, 200, 4).tolist()}):
    bias = torch.from_numpy(rng.standard_normal((2, length))).to(run.device)
    same = {"block_size": length}
    out = vq.vq_attention(q64, book64, codes64, v64, **same)
    biased = vq.vq_attention(q64, book64, codes64, v64, bias=bias, **same)
    biased_truth = dense(q64, k64, v64, bias)
    differences["blocks"] = max(differences["blocks"], off(out, truth))
    differences["bias"] = max(differences["bias"], off(biased, biased_truth))
    stream_state, pieces, cuts = None, [], sorted(rng.integers(0, 301, 12).tolist())
    for start, stop in zip([0, *cuts], [*cuts, 300], strict=True):
        piece, stream_state = vq.vq_attention(
            q64[:, :, start:stop],
            book64,
            codes64[:, :, start:stop],
            v64[:, :, start:stop],
            bias=bias,
            state=stream_state,
            return_state=True,
            **same,
        )
        pieces.append(piece)
    differences["splits"] = max(differences["splits"], off(torch.cat(pieces, 2), biased_truth))

everything = vq.vq_attention(q64, book64, codes64, v64, causal=False)
all_truth = torch.softmax(q64 @ k64.mT / 4, -1) @ v64
single = vq.vq_attention(q64.float(), book64.float(), codes64, v64.float(), block_size=64)
identity = {
    "float64": max(off(everything, all_truth), differences["blocks"]),
    "float32": off(single.double(), truth),
}


def gradients(attention, *leaves):
    """Gradients of a fixed sum of the outputs."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    weights = torch.randn(truth.shape, generator=run.generator("loss"), dtype=F64).to(run.device)
    return torch.autograd.grad(attention(*leaves), leaves, weights)


exact_gradients = gradients(
    lambda q, k, v: vq.vq_attention(q, book64, codes64, v, k_hat=k, block_size=32, cache_grad="exact"), q64, k64, v64
)
gradient_difference = max(map(off, exact_gradients, gradients(dense, q64, k64, v64)))


def state_size(tokens):
    """Numbers in the state after some tokens."""
    q, codebook, assigned, v, *_ = problem("state", tokens, 24, 16)
    _, state = vq.vq_attention(q, codebook, assigned, v, block_size=64, return_state=True)
    return sum(part.numel() for part in state[:4])


claims.measure(
    "C2",
    {
        "splits": differences["splits"],
        "blocks": differences["blocks"],
        "state growth": state_size(4096) / state_size(1024),
    },
)
print("largest difference from dense attention, float64:", lab.approx(identity["float64"], 2))
print("with a bias:", lab.approx(differences["bias"], 2), "· as a stream:", lab.approx(differences["splits"], 2))
print("in float32:", lab.approx(identity["float32"], 2), "· exact gradients:", lab.approx(gradient_difference, 2))

# %% [markdown]
# So far the keys were quantized already. Now let real keys move to their codes. Section 5 has a bound for the damage: the moved
# weight is at most $\tanh(\varepsilon/2)$, where $\varepsilon$ is the largest change of a score. We draw normal keys of width 8,
# find codes by k-means, and compare.

# %% tags=["experiment", "hide-input"]
key_count = max(512, run.pick(quick=1024, full=8192) // shrink)
error_q, _, _, _, _, error_keys = problem("error", key_count, 2, 8)
code_counts = [2**power for power in range(1, 10)]
moved, bounds, distances = [], [], []
for number in code_counts:
    book = vq.EMACodebook(1, number, 8, generator=run.generator("codebook", number)).to(run.device)
    book.init_kmeans(error_keys, iterations=8, generator=run.generator("k-means", number))
    _, snapped = vq.vq_assign(error_keys, book.codebook)
    before, after = (error_q[:, :, :256] @ keys.mT / math.sqrt(8) for keys in (error_keys, snapped))
    change = (after - before).abs()
    variation = 0.5 * (torch.softmax(after, -1) - torch.softmax(before, -1)).abs().sum(-1)
    moved.append(variation.mean().item())
    bounds.append(torch.tanh(change.amax(-1) / 2).mean().item())
    distances.append(((error_keys - snapped).square().sum() / error_keys.square().sum()).item())

with lab.style.use() as plt:
    fig, ax = plt.subplots(figsize=(7.2, 3.9))
    ax.plot(code_counts, bounds, label=r"bound $\tanh(\varepsilon/2)$ (D6)")
    ax.plot(code_counts, moved, label="weight that moved")
    ax.plot(code_counts, distances, label="relative square error of the keys")
    ax.set(xscale="log", xlabel="number of codes $c$", ylabel="share", ylim=(0, 1))
    ax.set_xticks(code_counts, [str(number) for number in code_counts])
    ax.set_xticks([], minor=True)
    ax.legend(loc="upper right")
lab.figure(
    fig,
    name="error",
    title="More codes, less damage; the bound is for the worst case",
    caption=(
        "**Figure 2.** Random normal keys of width 8, codes by k-means. The total variation between the softmax weights before and "
        "after, and its bound from the largest change of a score of each query; means over 256 queries."
    ),
    alt="Three falling curves against the number of codes from 2 to 512. The bound lies far above the moved weight.",
    data={"codes": code_counts, "moved": moved, "bound": bounds, "error of keys": distances},
)

# %% [markdown]
# Random keys have no clusters, so that many codes are needed. The keys of a trained network are another matter (section 15).
#
# ## 13 The clock
#
# Now the flagship question: from which length on is it faster? The opponent is PyTorch's fused causal attention,
# `scaled_dot_product_attention`. It keeps no $n \times n$ matrix and leaves the masked half out. Quantized keys pay for
# everything that they need: assigning the codes, the window, the cache. One head of width 64, blocks and codebook of
# 128, single precision, one core.


# %% tags=["experiment", "hide-input"]
def seconds(f, repeats, *, warm=False):
    """Least processor time of a call (on a GPU, of the clock), after one call to warm up."""
    cuda = run.device.type == "cuda"
    now = time.perf_counter if cuda else time.process_time
    if not warm:
        f()
    least = math.inf
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        start = now()
        f()
        if cuda:
            torch.cuda.synchronize()
        least = min(least, now() - start)
    return least


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.seen, self.held, self.peak = weakref.WeakSet(), 0, 0

    def free(self, size):
        """A tensor is gone."""
        self.held -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(made, torch.Tensor):
                storage = made.untyped_storage()
                if storage not in self.seen:
                    self.seen.add(storage)
                    weakref.finalize(storage, self.free, storage.nbytes())
                    self.held += storage.nbytes()
                    self.peak = max(self.peak, self.held)
        return out


def peak_bytes(f):
    """Most bytes of tensors that a call made and held at once."""
    with PeakMemory() as memory:
        f()
    return memory.peak


CODES = BLOCK = run.pick(quick=128, full=512)
HEADS = run.pick(quick=1, full=8)
half = run.pick(quick=torch.float32, full=torch.bfloat16 if run.device.type == "cuda" else torch.float32)
top = max(11, run.pick(quick=16, full=17) - round(math.log2(shrink)))
sizes = [2**power for power in range(8, top + 1)]
dense_sizes = [size for size in sizes if size <= run.pick(quick=2**14, full=2**17)]
dense_both = [size for size in sizes if size <= run.pick(quick=2**13, full=2**17)]
bias_sizes = [1024, sizes[-1]]
clock = {"vq": [], "vq bias": [], "vq both": [], "dense": [], "dense both": [], "memory": []}
for size in sizes:
    q, codebook, assigned, v, k_hat, keys = problem("clock", size, CODES, 64, heads=HEADS)
    q, v, keys = (part.to(half) for part in (q, v, keys))
    near_bias = torch.zeros(HEADS, BLOCK, device=run.device)
    upstream = torch.ones_like(q)
    repeats = 5 if size <= 4096 else 2

    def quantized(bias=None, *, keys=keys, codebook=codebook, q=q, v=v):
        """Assign the keys, then attend."""
        codes_, found = vq.vq_assign(keys.detach(), codebook)
        found = vq.straight_through(keys, found)
        return vq.vq_attention(q, codebook, codes_, v, k_hat=found, bias=bias, block_size=BLOCK)

    def fused(*, q=q, keys=keys, v=v):
        """The opponent."""
        return F.scaled_dot_product_attention(q, keys, v, is_causal=True)

    with torch.no_grad():
        clock["vq"].append(seconds(quantized, repeats))
        if size in bias_sizes:
            clock["vq bias"].append(seconds(lambda f=quantized, b=near_bias: f(b), repeats))
        if size in dense_sizes:
            clock["dense"].append(seconds(fused, repeats if size < 2**14 else 1))
    leaves = [part.requires_grad_() for part in (q, keys, v)]

    def both(f, leaves=leaves, upstream=upstream):
        """Forward and backward."""
        return torch.autograd.grad(f(), leaves, upstream)

    clock["memory"].append(peak_bytes(lambda f=quantized, go=both: go(f)))
    clock["vq both"].append(seconds(lambda f=quantized, go=both: go(f), 2, warm=True))
    if size in dense_both:
        clock["dense both"].append(seconds(lambda f=fused, go=both: go(f), 2 if size <= 4096 else 1))


FROM = sizes.index(1024)  # growth is measured from here on


def growth(values):
    """Mean factor for a doubling of the length."""
    return (values[-1] / values[0]) ** (1 / (len(values) - 1))


def crossing(dense_times, our_times):
    """The length from which on the second is faster, between the measured ones."""
    gaps = [math.log(ours / theirs) for theirs, ours in zip(dense_times, our_times, strict=False)]
    for k in range(len(gaps) - 1, -1, -1):
        if gaps[k] > 0:
            if k + 1 == len(gaps):
                return math.inf
            share = gaps[k] / (gaps[k] - gaps[k + 1])
            return sizes[k] * 2**share
    return float(sizes[0])


claims.measure(
    "C1",
    {
        **identity,
        "time growth": growth(clock["vq"][FROM:]),
        "memory growth": growth(clock["memory"][FROM:]),
        "dense growth": growth(clock["dense"][FROM:]),
    },
)
claims.measure(
    "C3",
    {
        "bias": differences["bias"],
        "time growth with bias": (clock["vq bias"][1] / clock["vq bias"][0]) ** (1 / math.log2(sizes[-1] / 1024)),
    },
)
count_meets = vq.vq_break_even(64, 64, CODES, BLOCK)
meets = {kind: crossing(clock[f"dense{kind}"], clock[f"vq{kind}"]) for kind in ("", " both")}

with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.3), sharey=True)
    for axes, kind, name in ((left, "", "Forward"), (right, " both", "Forward and backward")):
        ours, theirs = clock[f"vq{kind}"], clock[f"dense{kind}"]
        axes.plot(sizes[: len(theirs)], 1e3 * np.array(theirs), label="dense, fused")
        axes.plot(sizes, 1e3 * np.array(ours), label="quantized keys")
        guide = np.array([sizes[len(theirs) - 1], sizes[-1]])
        axes.plot(guide, 1e3 * theirs[-1] * (guide / guide[0]) ** 2, color=lab.style.MUTED, marker="", linestyle=":")
        if sizes[0] < meets[kind] < math.inf:
            axes.axvline(meets[kind], color=lab.style.MUTED, linewidth=0.8)
            axes.annotate(
                f"equal at {meets[kind]:.0f}",
                (meets[kind], 0.94),
                xycoords=("data", "axes fraction"),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=9,
                color=lab.style.INK,
            )
        axes.set(xscale="log", yscale="log", xlabel="length $n$")
        axes.set_xticks(sizes[::2], [f"{size // 1024}k" if size >= 1024 else str(size) for size in sizes[::2]])
        axes.set_xticks([], minor=True)
        lab.style.title(axes, name)
    left.set_ylabel("time (ms)" if run.device.type == "cuda" else "processor time (ms)")
    right.legend(loc="lower right")
lab.figure(
    fig,
    name="clock",
    title="Softmax attention over quantized keys takes linear time",
    caption=(
        "**Figure 3.** Time against length, logarithmic axes. Dotted: the quadratic continuation of the dense kernel beyond what "
        "was measured. Vertical: where the curves cross (left out if that is not between the measured lengths). Assigning the keys to their codes is "
        "included. Right: with gradients, those of the cache stopped."
    ),
    alt=(
        "Two panels with time against length from 1k to 64k. The dense curve rises twice as steeply as that of quantized keys and "
        "crosses it near one thousand tokens."
    ),
    data={
        "n": sizes,
        **{name: 1e3 * np.array(values) for name, values in clock.items() if name != "memory"},
        "peak bytes": clock["memory"],
        "crossing forward, both": [min(meets[""], 1e9), min(meets[" both"], 1e9)],
    },
    clocked=[*(name for name in clock if name != "memory"), "crossing forward, both"],
)

# %% tags=["experiment", "hide-input"]
at = dense_sizes[-1]
print(f"crossing by multiply-adds (D10): n = {count_meets:.0f}")
crossings = {k: lab.approx(x, 2) if math.isfinite(x) else "beyond what was measured" for k, x in meets.items()}
print("crossing by the clock: forward", crossings[""], "· with gradients", crossings[" both"])
print(f"dense over quantized at n = {at}:", lab.approx(clock["dense"][-1] / clock["vq"][len(dense_sizes) - 1], 3))
print(
    "growth for a doubling: quantized",
    lab.approx(growth(clock["vq"][FROM:]), 3),
    "· dense",
    lab.approx(growth(clock["dense"][FROM:]), 3),
)
print("memory with gradients, bytes for a token:", lab.approx(clock["memory"][-1] / sizes[-1], 3))

# %% [markdown]
# The count and the clock need not agree. Dense attention is a single fused kernel; ours is a few calls for each chunk of blocks.
# Two things keep it fast on a core. Values are added to their codes by an indexed sum, where a product with a one-hot matrix
# would cost as much as all scores against the codes. And a chunk of scores is small enough for the processor's cache. Without
# a bias, and without gradients that are cut, the length of a block changes nothing but the time, so the routine chooses it.
#
# ## 14 The exact gradient, on the clock
#
# The sweep of section 6 is next. With few codes of small width it should pay early: for $c = d_k = d_v = 16$ the count says 256
# tokens. The figure shows forward and backward with every gradient exact.

# %% tags=["experiment", "hide-input"]
sweep_sizes = [2**power for power in range(10, max(13, run.pick(quick=14, full=16) - round(math.log2(shrink))))]
sweep_clock = {"dense, fused": [], "quantized, exact": [], "quantized, cache stopped": []}
for size in sweep_sizes:
    q, codebook, assigned, v, k_hat, _ = problem("sweep", size, 16, 16, grad=True)
    upstream = torch.ones_like(q)
    for name, f in (
        ("dense, fused", lambda q=q, k=k_hat, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
        (
            "quantized, exact",
            lambda q=q, k=k_hat, v=v, C=codebook, z=assigned: vq.vq_attention(q, C, z, v, k_hat=k, cache_grad="exact"),
        ),
        (
            "quantized, cache stopped",
            lambda q=q, k=k_hat, v=v, C=codebook, z=assigned: vq.vq_attention(q, C, z, v, k_hat=k, block_size=128),
        ),
    ):
        sweep_clock[name].append(
            seconds(lambda f=f, leaves=(q, k_hat, v), u=upstream: torch.autograd.grad(f(), leaves, u), 2)
        )
claims.measure("C4", {"growth of the exact gradient": growth(sweep_clock["quantized, exact"])})

with lab.style.use() as plt:
    fig, ax = plt.subplots(figsize=(7.2, 3.9))
    for name, values in sweep_clock.items():
        ax.plot(sweep_sizes, 1e3 * np.array(values), label=name)
    ax.set(xscale="log", yscale="log", xlabel="length $n$", ylabel="time (ms)")
    ax.set_xticks(sweep_sizes, [f"{size // 1024}k" for size in sweep_sizes])
    ax.set_xticks([], minor=True)
    ax.legend(loc="upper left")
lab.figure(
    fig,
    name="sweep",
    title="The exact straight-through gradient in linear time",
    caption=(
        "**Figure 4.** Forward and backward for $c = d_k = d_v = 16$, one head. The sweep of D7 gives every key its own exact "
        "gradient; its time grows like that of the variant that stops the gradient of the cache."
    ),
    alt="Time against length from 1k to 8k. Dense rises steeply, both quantized variants rise in parallel with half the slope.",
    data={"n": sweep_sizes, **{name: 1e3 * np.array(values) for name, values in sweep_clock.items()}},
    clocked=sweep_clock,
)

# %% [markdown]
# ## 15 A small language model
#
# What do quantized keys cost in quality? We train networks of two layers that predict the next character of the King James
# Bible, on windows of 64. Each layer has two heads of width 32. Queries and keys are normalized; a learned bias over 32 distances
# is the only source of position. The networks differ in their keys: dense, 16 codes, 64 codes. All start from the same
# weights and see the same batches. Then they read longer texts than they were trained on, always predicting *the same
# characters*; and once more with their bias set to zero.


# %% tags=["experiment", "hide-input"]
class KeyAttention(nn.Module):
    """Attention with dense keys (codes = 0) or quantized ones, and a bias by distance."""

    def __init__(self, heads, head_dim, codes, width, *, generator, cache_grad=False, window_only=False):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(heads, width))
        self.book = vq.EMACodebook(heads, codes, head_dim, decay=0.95) if codes else None
        self.width, self.generator, self.started = width, generator, False
        self.cache_grad, self.window_only, self.extra_loss, self.keys = cache_grad, window_only, None, None

    def forward(self, q, k, v):
        """Normalize, quantize, attend."""
        d = q.shape[-1]
        q, k = (F.layer_norm(x, (d,)) / d**0.25 for x in (q, k))
        self.keys = k.detach()
        if self.book is None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(q), scale=1.0)
        if self.training and not self.started:  # codes start on keys of the first batch
            self.book.init_kmeans(k, iterations=0, generator=self.generator)
            self.started = True
        found = self.book(k.float())
        self.extra_loss = 0.01 * found.commit_loss
        options = {"bias": self.bias, "block_size": self.width, "scale": 1.0, "cache_grad": self.cache_grad}
        return vq.vq_attention(q, found.codebook, found.codes, v, k_hat=found.k_hat, **options)

    def mask(self, q):
        """Bias and causal mask of dense attention."""
        count = q.shape[2]
        gap = torch.arange(count, device=q.device)[:, None] - torch.arange(count, device=q.device)
        mask = torch.where(gap < self.width, self.bias[:, gap.clamp(0, self.width - 1)], 0)
        if self.window_only:  # the two dense blocks, without a cache
            block = torch.arange(count, device=q.device) // self.width
            mask = mask.masked_fill(block[:, None] - block > 1, -math.inf)
        return mask.masked_fill(gap < 0, -math.inf).to(q.dtype)


text = lab.data.kjv().lower()
vocabulary = lab.text.Vocabulary(text, size=95)
train_text, test_text = lab.text.split(vocabulary.encode(text))
small = run.scale == "quick"
TRAINED_AT = 64 if small else 2048 // shrink
if small:
    model_size = {"dim": 64, "depth": 2, "heads": 2, "expansion": 2}
else:
    heads = max(2, 8 // shrink)
    model_size = {"dim": 64 * heads, "depth": heads, "heads": heads}
WINDOW = 32 if small else 512 // shrink
windows = lab.language.test_windows(
    test_text,
    count=max(8, run.pick(quick=128, full=32) // shrink),
    longest=8 * TRAINED_AT,
    generator=run.generator("windows"),
)


def adamw(model, lr):
    """The optimizer of all networks."""
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)


def trained(codes, **options):
    """Train one network; all start from the same weights and see the same batches."""
    model = lab.language.CausalDecoder(
        len(vocabulary),
        **model_size,
        attention=lambda layer, heads, head_dim: KeyAttention(
            heads, head_dim, codes, WINDOW, generator=run.generator("first codes", layer), **options
        ),
        generator=run.generator("weights"),
    ).to(run.device)
    batches = lab.text.causal_batches(
        train_text, batch=16 if small else max(2, 16 // shrink), n=TRAINED_AT, generator=run.generator("batches")
    )
    lab.training.train(
        model,
        batches,
        steps=max(20, 220 // shrink) if small else max(20, 3000 // shrink),
        lr=3e-3 if small else 5e-4,
        warmup=max(2, 20 // shrink) if small else max(2, 200 // shrink),
        clip=1.0,
        loss=lab.training.causal_loss,
        optimizer=adamw,
        schedule="cosine",
        autocast=run.autocast,
        desc=f"{codes or 'dense'} codes",
    )
    return model


def by_length(model, multiples=(1, 2, 4, 8)):
    """Evaluate at several lengths."""
    return lab.language.evaluate_lengths(
        model, windows, train_len=TRAINED_AT, multiples=multiples, autocast=run.autocast
    )


models = {
    "dense": trained(0),
    f"{few} codes": trained(few),
    f"{many} codes": trained(many),
}
if run.scale == "full":
    models[f"{many} codes, exact gradient"] = trained(many, cache_grad="exact")
    models["window only"] = trained(0, window_only=True)
results = {name: by_length(model) for name, model in models.items()}


def without_bias(model):
    """The cross-entropy at the length of the training when the bias is set to zero in a trained network."""
    kept = [layer.bias.detach().clone() for layer in model.attentions]
    with torch.no_grad():
        for layer in model.attentions:
            layer.bias.zero_()
        loss = by_length(model, multiples=(1,))[0].cross_entropy
        for layer, bias in zip(model.attentions, kept, strict=True):
            layer.bias.copy_(bias)
    return loss


blinded = {name: without_bias(model) - results[name][0].cross_entropy for name, model in models.items()}

# %% tags=["experiment", "hide-input"]
accuracy = {name: np.array([100 * row.accuracy for row in rows]) for name, rows in results.items()}
nats = {name: np.array([row.cross_entropy for row in rows]) for name, rows in results.items()}


def use_of_codes(model):
    """For each layer the relative error of the keys, and the least perplexity over its heads."""
    found = []
    for layer in model.attentions:
        snapped = vq.vq_assign(layer.keys.float(), layer.book.codebook)[1]
        error = (layer.keys - snapped).square().sum() / layer.keys.square().sum()
        found.append((error.item(), layer.book.perplexity().min().item()))
    return found


few_use, many_use = use_of_codes(models[f"{few} codes"]), use_of_codes(models[f"{many} codes"])
claims.measure(
    "C9a",
    {
        f"loss with {short} codes": nats[f"{number} codes"][0] - nats["dense"][0]
        for short, number in (("few", few), ("many", many))
    }
    | {"least perplexity": min(use for _, use in few_use), "error in layer 1": many_use[0][0]},
)
added = {name: values[-1] - values[0] for name, values in nats.items()}
claims.measure(
    "C8a",
    {"added, dense": added["dense"], "added, quantized": (added[f"{few} codes"] + added[f"{many} codes"]) / 2},
)

rank_q, _, _, _, rank_k, _ = problem("rank", 200, 16, 24, dtype=F64)
plain_weights = torch.exp(rank_q @ rank_k.mT / math.sqrt(24))[0, 0]
window_bias = torch.randn(32, generator=run.generator("window"), dtype=F64).to(run.device)
gap = (torch.arange(200)[:, None] - torch.arange(200)).to(run.device)
in_window = (gap >= 0) & (gap < 32)
window_weights = plain_weights * torch.where(in_window, torch.exp(window_bias[gap.clamp(0, 31)]), 1.0)
claims.measure(
    "C6",
    {
        "rank of the codes": int(torch.linalg.matrix_rank(plain_weights)),
        "rank with a window": int(torch.linalg.matrix_rank(window_weights)),
        "added without bias": blinded[f"{few} codes"],
        "the same, dense keys": blinded["dense"],
    },
)

with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.2))
    lengths = [row.n for row in results["dense"]]
    for name in models:
        left.plot(lengths, nats[name], label=name)
        right.plot(lengths, accuracy[name], label=name)
    for axes, label in ((left, "cross-entropy (nats)"), (right, "accuracy (%)")):
        axes.axvline(TRAINED_AT, color=lab.style.MUTED, linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlabel="characters read", ylabel=label)
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.set_xticks([], minor=True)
    right.legend(loc="best", fontsize=8)
    lab.style.title(left, "Loss on the same characters")
    lab.style.title(right, "Accuracy on the same characters")
lab.figure(
    fig,
    name="lengths",
    title="Quality of dense and quantized keys, by length",
    caption=(
        "**Figure 5.** One network of each kind; the same characters are predicted at every length. Dotted: the length of the "
        "training."
    ),
    alt="Two panels against the length of the context, with a curve for each network.",
    data={
        "n": lengths,
        **{f"nats {k}": v for k, v in nats.items()},
        **{f"accuracy {k}": v for k, v in accuracy.items()},
    },
)
for name, rows in results.items():
    print(
        f"{name}: {lab.approx(rows[0].cross_entropy, 4)} nats at {rows[0].n}, without bias {lab.approx(blinded[name], 2)} more"
    )
for name, rows in ((few, few_use), (many, many_use)):
    print(
        f"{name} codes, relative error and perplexity by layer:",
        *(f"{lab.approx(e, 2)}, {lab.approx(u, 3)};" for e, u in rows),
    )

# %% [markdown]
# The three curves lie close together, at the length of the training and beyond it. Why is there no gift on longer texts? A
# finite set of keys keeps the *kinds* of keys that training has seen. But the number of tokens behind each code grows with the
# text, and so does the weight of the far past against the window, by $\ln N_s$ in the score ([D3](#D3)); exercise 2 makes
# that precise. Codes do not touch this cause.
#
# A word of caution on layer 1. Without positions in the keys a key of the first layer is a function of its character alone. There
# are 40 characters in this text, so 64 codes can hold the first layer almost exactly. The deeper layer is the fair test.
#
# Networks miss their bias when it is set to zero, whatever their keys. So this experiment supports the use of a bias. It cannot
# support the reason that the post gives, since in a network without other positions a dense key knows little about its place
# either.
#
# ## 16 Two more questions to the trained networks
#
# *Does the stopped gradient keep the important part?* We take the network with quantized keys and texts of eight times the
# training's length, and compute the gradient of the weights that make the keys: once with the cache stopped, once exactly, by
# the sweep or the pairs of section 6.
#
# *Can a dense network be converted?* We take the dense network, collect its keys on training text, and find codes by k-means. Then
# the codes replace the keys, and nothing is trained.

# %% tags=["experiment", "hide-input"]
quantized_model = models[f"{few} codes"].eval()
long_batch = next(
    lab.text.causal_batches(
        train_text, batch=max(1, 8 // shrink), n=8 * TRAINED_AT, generator=run.generator("long batch")
    )
).to(run.device)


def key_gradients(mode):
    """Gradient of the loss by the weights of the keys, of all layers, as one vector."""
    for layer in quantized_model.attentions:
        layer.cache_grad = mode
    weights = [layer.qkv.weight for layer in quantized_model.layers]
    with run.autocast():
        logits = quantized_model.logits(quantized_model(long_batch.inputs))
    value = F.cross_entropy(logits.flatten(0, 1).float(), long_batch.targets.flatten())
    found = torch.autograd.grad(value, weights)
    return torch.cat([part.unflatten(0, (3, -1))[1].flatten().float() for part in found])


stopped, exact = key_gradients(False), key_gradients("exact")
cosine = torch.cosine_similarity(stopped, exact, dim=0).item()
more = {}
if run.scale == "full":
    more["gain of exact training"] = nats[f"{many} codes"][0] - nats[f"{many} codes, exact gradient"][0]
claims.measure("C5", {"cosine": cosine, "length, stopped over exact": float(stopped.norm() / exact.norm()), **more})


def converted(number):
    """The dense network with its keys replaced by codes."""
    model = models["dense"].eval()
    batch = next(
        lab.text.causal_batches(
            train_text, batch=max(4, 64 // shrink), n=TRAINED_AT, generator=run.generator("conversion")
        )
    ).to(run.device)
    with torch.no_grad():
        model(batch.inputs)
    for layer in model.attentions:
        heads, _, d = (layer.keys.shape[1], None, layer.keys.shape[3])
        book = vq.EMACodebook(heads, number, d).to(run.device)
        book.init_kmeans(layer.keys, iterations=10, generator=run.generator("conversion codes", number))
        layer.book = book
    loss = by_length(model, multiples=(1,))[0].cross_entropy
    for layer in model.attentions:
        layer.book = None
    return loss


conversion = {number: converted(number) - nats["dense"][0] for number in (4, few, many)}
claims.measure("C8b", {"converted, many codes": conversion[many], "converted, few codes": conversion[few]})
print("cosine of the stopped and the exact gradient:", lab.approx(cosine, 3))
print("length of the stopped over the exact:", lab.approx(float(stopped.norm() / exact.norm()), 3))
print(
    "conversion costs, in nats:", *(f"{number} codes {lab.approx(value, 2)};" for number, value in conversion.items())
)

# %% [markdown]
# The rule of C5 asks for the direction only. How much of the length is left is printed beside it: what is cut off is not small at
# this distance, but it points in a similar way. A conversion by codes needs no training here; but a network of this size is a
# weak witness for a large one.
#
# ## 17 The claims

# %% tags=["experiment"]
claims.table()

# %% [markdown]
# ## 18 What to keep
#
# If keys are codes, a softmax over all tokens *is* a softmax over codes with the logarithms of their counts: linear time, a state
# of fixed size, and no approximation beyond the moved keys, whose damage is at most $\tanh(\varepsilon/2)$ of the weight. A
# bias can be kept for near tokens, exact gradients can be had in linear time too (though rarely at a good price); Figure 3 shows from
# which length on the method is faster than a fused dense kernel. In a small language model the codes cost little, and
# section 15 shows what they did not bring.
#
# ### Exercises
#
# **1. One code.** What does attention become if the codebook has a single code? And with two codes, for a query that is
# orthogonal to both?
#
# <details><summary>Solution</summary>
#
# The running mean of all values: the scores are equal. For an orthogonal query both scores are zero, and with counts $N_1, N_2$
# and means $V_1, V_2$ the output is $(N_1 V_1 + N_2 V_2)/(N_1 + N_2)$, again the mean over all tokens. Codes alone carry no
# preference; the logarithm of the count carries the number of tokens.
#
# </details>

# %% tags=["hide-cell"]
D.exact(
    "D12.1",
    eq(
        over_codes(exp(score + ell[s]) * Vc[s]) / over_codes(exp(score + ell[s])),
        over_codes(Nc[s] * Vc[s]) / over_codes(Nc[s]),
    ),
    by="one score $a$ for all codes: the mean of the means, weighed by the counts",
)

# %% [markdown]
# **2. The score of a crowd.** A code with $N$ tokens has a score that is lower by $\Delta$ than the score of a code with one
# token. From which $N$ on does the crowd have more weight?
#
# <details><summary>Solution</summary>
#
# From $N = e^{\Delta}$ on: $a - \Delta + \ln N$ meets $a$ there. A far past of many tokens outweighs a near one unless the scores
# (or a bias) keep growing with $\ln n$. This is why long texts dilute quantized attention just as they dilute the dense one.
#
# </details>

# %% tags=["hide-cell"]
lag = Symbol("Delta", positive=True)
D.exact(
    "D12.2", eq(sp.exp(score - lag) * sp.exp(lag), sp.exp(score)), by="the weight of $N = e^\\Delta$ tokens and of one"
)

# %% [markdown]
# **3. Blocks of which length?** A window of one dense block (no bias is needed) costs $l(d_k + d_v)$ multiply-adds for a token, if
# masked scores are computed too. Copying the cache for each block costs $\kappa\, c\, d_v / l$ for some constant $\kappa$.
# Which $l$ is best?
#
# <details><summary>Solution</summary>
#
# $l = \sqrt{\kappa\,c\,d_v/(d_k + d_v)}$: the derivative of the sum vanishes there. It grows like the root of the number
# of codes.
#
# </details>

# %% tags=["hide-cell"]
kappa, best_block = Symbol("kappa", positive=True), Symbol("l_*", positive=True)
per_token = block * (dk + dv) + kappa * codes * dv / block
display(
    D.define("D12.3", eq(best_block, sp.sqrt(kappa * codes * dv / (dk + dv))), by="a length"),
    D.exact("D12.4", eq(sp.Subs(Derivative(per_token, block), block, best_block), 0), by="the derivative vanishes"),
)

# %% [markdown]
# ### Where the idea went since
#
# The paper appeared at ICLR 2024 as *Transformer-VQ: Linear-Time Transformers via Vector Quantization*
# ([arXiv 2309.16354](https://arxiv.org/abs/2309.16354)). Its state, one mean value for each code, is a relative of the matrix
# states of retentive networks ([arXiv 2307.08621](https://arxiv.org/abs/2307.08621)), with a softmax to read it.
# Quantizing what attention remembers has become common for another reason, to save the memory of cached keys and values
# during inference, for example in KIVI ([arXiv 2402.02750](https://arxiv.org/abs/2402.02750)); there the keys are rounded
# and the cost stays quadratic.
