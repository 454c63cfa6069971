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
#     archive: 9706
#     title_zh: Transformer升级之路:11、将β进制位置进行到底
#     title_en: Taking base-β positions all the way
#     date: 2023-07-31
#     prerequisites: [length-extrapolation-local-attention, entropy-invariant-softmax]
#     minutes: {quick: 1, full: 30}
# ---

# %% [markdown]
# # How far can a number system take a model beyond its training?
#
# *Taking base-β positions all the way* · <span lang="zh">Transformer升级之路:11、将β进制位置进行到底</span>
#
# > **Post** [<span lang="zh">Transformer升级之路:11、将β进制位置进行到底</span>](https://kexue.fm/archives/9706) by Su Jianlin
# > (<span lang="zh">苏剑林</span>), 2023-07-31. It continues
# > [<span lang="zh">Transformer升级之路:10、RoPE是一种β进制编码</span>](https://kexue.fm/archives/9675) of 2023-07-06, whose
# > claims are tested here too. This chapter is an independent work, in words of its own.
#
# **The question.** A model with rotary positions was trained on texts of length $N$. It has to read texts of length $kN$, and
# nobody wants to train it again. All that may be changed are the speeds at which its coordinates rotate, a few dozen
# numbers. Which change is best?
#
# **The answer in one sentence.** Leave the pairs of coordinates that finished a turn in training as they are, and slow down
# the others so that they meet no new angle; number systems lead to formulas that do a part of this, at a price in local
# resolution, and clipping the distance does better than any change of speeds.
#
# **Abstract.** We derive the methods of the two posts, interpolation and four kinds of NTK scaling, from number systems, and
# show where that analogy ends. In its place we prove which pairs of coordinates meet angles that training never saw, and what
# a method pays for avoiding them. Then we train one small language model and test all methods on the same weights, at up to
# eight times the length of its training.
#
# <p lang="zh"><b>摘要。</b>本章从进制表示出发推导两篇原文中的各种方法（位置内插与四种NTK缩放），并指出这一类比的适用边界。随后给出可证明的替代说法：哪些旋转分量会遇到训练中没有见过的角度，以及避免它们要付出什么代价。最后训练一个小型语言模型，在同一组权重上比较所有方法，测试长度最长为训练长度的八倍。</p>

# %% tags=["setup", "hide-input"]
# The build writes the cell that installs kexue_lib (only where it is missing) in place of this comment.

# %% tags=["parameters"]
scale = "quick"  # or "full": one GPU, the same code with larger numbers
seed = 0
device = "auto"
shrink = 1  # divides the size of the experiments: a run in miniature

# %% tags=["hide-input"]
import sympy as sp
from IPython.display import display
from sympy import (
    Derivative,
    Function,
    IndexedBase,
    KroneckerDelta,
    Max,
    Min,
    Mod,
    Product,
    Rational,
    Sum,
    Symbol,
    ceiling,
    cos,
    exp,
    floor,
    log,
    oo,
    pi,
    sin,
)

from kexue_lib.derive import Derivation, Integer, Interval, Vector, eq, ge, gt, le, lt, tends

# %% [markdown]
# ## 1 Digits, and what they do with large numbers
#
# Suppose that a model reads a number $n$ as three decimal digits, and that in training $n$ was below 1000. How could it be
# given the number 1749? There are three ways. One can add a fourth digit, which the model has never seen in use. One can
# divide every number by 2, so that 1749 becomes 874.5; then neighbours lie closer together than ever in training. Or one can keep three
# digits and count in a larger radix. In radix 16 the number is written 6, 13, 5. Single digits then are larger than
# any digit in training, and nothing else is new.
#
# The post reads rotary positions as such digits, and each of the three ways becomes a method. Let us first state
# what digits are. The radix $r \ge 2$ is a whole number, and digit 1 is the lowest. Every numbered line below was checked by
# the machine that made this page, or is marked as defined, assumed or cited; the code is one click away.

# %% tags=["hide-input"]
n = Symbol("n", integer=True, nonnegative=True)
m, L, r = (Symbol(x, integer=True, positive=True) for x in ("m", "L", "r"))
digit, analog, reach = Function("delta", integer=True), Function(r"\tilde{\delta}"), Function("R", integer=True)
X = Symbol("X", positive=True)
D = Derivation(
    "beta-base-positions",
    domain={n: Integer(0, 9999), r: Integer(2, 16), m: Integer(1, 5), L: Integer(1, 5), X: Interval(2, 10**5)},
)
display(
    D.define("D1.1", eq(digit(n, r, m), Mod(floor(n / r ** (m - 1)), r)), by="digit $m$ of $n$ in radix $r$"),
    D.numeric(
        "D1.2",
        eq(digit(n, r, m), floor(n / r ** (m - 1)) - r * floor(n / r**m)),
        by="what is left of the quotient when the next digit takes its share",
    ),
    D.exact(
        "D1.3",
        eq(
            Sum((floor(n / r ** (m - 1)) - r * floor(n / r**m)) * r ** (m - 1), (m, 1, L)),
            n - r**L * floor(n / r**L),
        ),
        dims={L: (1, 2, 3, 5)},
        by="the sum telescopes",
    ),
    D.numeric(
        "D1",
        eq(Sum(digit(n, r, m) * r ** (m - 1), (m, 1, L)), Mod(n, r**L)),
        by="$L$ digits tell numbers below $r^L$ apart, and no larger ones",
        uses=["D1.2", "D1.3"],
    ),
)

# %% [markdown]
# Here is the example of the post: the number 1749, and the least radix in which three digits reach 2000. A digit without its
# floor, $\tilde\delta$, is what division by 2 leaves in the lowest place.

# %% tags=["hide-input"]
whole = Symbol("x", positive=True)
display(
    D.define("D11.1", eq(analog(whole, r), Mod(whole, r)), by="the lowest digit, without the floor"),
    D.define("D11.2", eq(reach(X, L), ceiling(X ** (1 / L))), by="the least radix in which $L$ digits reach below $X$"),
    D.numeric(
        "D11.3",
        eq(10000 * digit(1749, 16, 3) + 100 * digit(1749, 16, 2) + digit(1749, 16, 1), 6 * 10000 + 13 * 100 + 5),
        by="in radix 16: the digits 6, 13, 5, side by side",
    ),
    D.exact("D11.4", eq(analog(Rational(1749, 2), 10), Rational(9, 2)), by="halved: the last digit becomes 4.5"),
    D.exact("D11", eq(reach(2000, 3), 13), by="three digits reach 2000 from radix 13 on"),
)

# %% [markdown]
# ## 2 Rotations as digits
#
# Rotary positions turn the coordinates of queries and keys in pairs. A head of width $d$ has $P = d/2$ pairs. Let us count
# them from $m = 1$, the fastest one. Position $n$ turns pair $m$ by the phase $\theta_m(n)$. The phases fall in
# geometric progression, and its ratio $\beta$ comes from a constant $B$, usually 10000, that is called the *base* of RoPE.

# %% tags=["hide-input"]
P = Symbol("P", integer=True, positive=True)
d, beta, B, k, lam, N = sp.symbols("d beta B k lambda N", positive=True)
x = Symbol("x", nonnegative=True)
theta, period = Function("theta", nonnegative=True), Function("T", positive=True)
D.domain.update({P: Integer(2, 64), B: Interval(5, 10**6), k: Interval(1, 32), x: Interval(0, 9999), N: Interval(8, 9999)})
display(
    D.define("D2.1", eq(d, 2 * P), by="two coordinates make a pair"),
    D.define("D2.2", eq(beta, B ** (2 / d)), by="the ratio of the progression"),
    D.define("D2.3", eq(theta(x, m), x / beta ** (m - 1)), by="phase of pair $m$ at position $x$"),
    D.exact("D2", eq(theta(x, m), x * B ** (-2 * (m - 1) / d)), by="the usual form of the frequencies"),
    D.exact("D2.4", eq(theta(x / k, m), theta(x, m) / k), by="dividing positions by $k$ divides every frequency by $k$"),
)

# %% [markdown]
# Compare [D2.3](#D2.3) with [D1.1](#D1.1). Both divide $n$ by a power. A digit then takes the floor and reduces modulo $r$; a
# rotation sees its phase only modulo $2\pi$, since a full turn changes nothing. So the post says: apart from the floor, RoPE
# writes $n$ in radix $\beta$. This is claim C1, and a good guide. Let us see how far it goes.
#
# **The period.** Adding $r^{m-1}$ to $n$ raises digit $m$ by one. After $r$ such steps it is back. So digit $m$ has the period
# $r^m$. A rotation needs $2\pi$ steps of $\beta^{m-1}$.

# %% tags=["hide-input"]
display(
    D.numeric(
        "D3.1",
        eq(digit(n + r ** (m - 1), r, m), Mod(digit(n, r, m) + 1, r)),
        by="digit $m$ counts the steps of $r^{m-1}$, modulo $r$",
    ),
    D.define("D3.2", eq(period(m), 2 * pi * beta ** (m - 1)), by="a length for each pair"),
    D.exact("D3.3", eq(theta(x + period(m), m), theta(x, m) + 2 * pi), by="it is the period of the rotation"),
    D.exact("D3.4", eq(period(m) / beta**m, 2 * pi / beta), by="against the period of a digit in radix $\\beta$"),
)

# %% [markdown]
# The two periods agree only if $\beta = 2\pi$. Which width makes $\beta$ a given number?

# %% tags=["hide-input"]
width_for = Function("d", positive=True)
display(
    D.define("D3.5", eq(width_for(X, B), 2 * log(B) / log(X)), by="a width for each $X > 1$"),
    D.exact(
        "D3",
        eq((B ** (2 / whole)).subs(whole, width_for(X, B)), X),
        domain={X: Interval(1.1, 100)},
        by="at this width $\\beta$ is $X$",
    ),
    D.numeric(
        "D3.6",
        eq(width_for(2 * pi, 10000), sp.Float("10.022804")),
        tolerance=1e-6,
        by="with $B = 10000$ the periods agree at a width of about 10",
    ),
    D.numeric(
        "D3.7",
        eq(width_for(2, 10000), sp.Float("26.575425")),
        tolerance=1e-6,
        by="and $\\beta$ reaches 2, the smallest radix, at a width of about 27",
    ),
)

# %% [markdown]
# The usual heads are wider, 64 or 128. Their $\beta$ is below 2, and no number system has such a radix with digits $0, \dots,
# \beta - 1$. The author agrees as to the period: only the way in which it *scales* is meant, he answers to a reader.
#
# **The floor.** The posts call it immaterial. But it is what makes a digit a digit. Digit $m$ does not change
# within a block of $r^{m-1}$ numbers, so a single digit tells only $r$ cases apart, and the number is known only from all of
# them together. A single rotation is different: it moves with every step. The chord between the phases $a$ and $b$ vanishes
# only if they differ by whole turns. So one slow pair alone tells *all* positions within its period apart, and even the
# fastest one, whose period $2\pi$ is irrational, never repeats at a whole number.

# %% tags=["hide-input"]
a, b = sp.symbols("a b", real=True)
display(
    D.numeric(
        "D3.8",
        eq(Sum(1 - KroneckerDelta(digit(n + 1, r, m), digit(n, r, m)), (n, 0, r**m - 2)), r - 1),
        domain={r: Integer(2, 5), m: Integer(1, 4)},
        points=40,
        by="among $r^m$ numbers in a row, digit $m$ moves only $r - 1$ times",
    ),
    D.exact(
        "D3.9",
        eq((cos(a) - cos(b)) ** 2 + (sin(a) - sin(b)) ** 2, 4 * sin((a - b) / 2) ** 2),
        by="the squared chord between two phases",
    ),
)

# %% [markdown]
# The pairs are thus views of the same number at several resolutions, and each is complete up to its period. The analogy is a
# way to find formulas. What a formula does to the model has to be proved in another way (section 6).
#
# ## 3 A larger radix
#
# Take the analogy at its word. $P$ digits of radix $\beta$ reach up to $\beta^P$, which is $B$. To reach $k$ times as far the
# radix has to become $\beta\lambda$, where $(\beta\lambda)^P = k\,\beta^P$.

# %% tags=["hide-input"]
old, aware, fixed = (Function(f"s_{{\\mathrm{{{name}}}}}", positive=True) for name in ("old", "aware", "fixed"))
display(
    D.exact("D4.1", eq((beta * k ** (2 / d)) ** P, k * beta**P), by="$\\lambda = k^{2/d}$ gives $k$ times the range"),
    D.define("D4.2", eq(old(m), k ** (-2 * (m - 1) / d)), by="new over old frequency of pair $m$"),
    D.exact("D4.3", eq(theta(x, m) * old(m), x / (beta * k ** (2 / d)) ** (m - 1)), by="digits in radix $\\beta\\lambda$"),
    D.exact("D4", eq(theta(x, m) * old(m), x * (k * B) ** (-2 * (m - 1) / d)), by="the same as RoPE with the base $kB$"),
)

# %% [markdown]
# This method is called *NTK-RoPE-old* in the post. Before it, an anonymous author who called himself bloc97 had fixed the constant
# in another way. He asked that the slowest pair, $m = P$, be slowed down by exactly $k$, as in interpolation. These are claims
# C2 and C3.

# %% tags=["hide-input"]
q = Symbol("q", integer=True, positive=True)  # P = 1 + q pairs: at least two
grow = Symbol("u", nonnegative=True)  # k = exp(u): at least one
display(
    D.define("D5.1", eq(aware(m), k ** (-2 * (m - 1) / (d - 2))), by="the ratio for $\\lambda = k^{2/(d-2)}$"),
    D.exact("D5.2", eq(aware(P), 1 / k), by="the slowest pair is slowed down by $k$"),
    D.exact(
        "D5",
        eq(theta(x, m) * aware(m), x * (B * k ** (d / (d - 2))) ** (-2 * (m - 1) / d)),
        put={P: 1 + q, k: exp(grow)},
        by="the same as RoPE with the base $B\\,k^{d/(d-2)}$",
    ),
    D.exact("D5.3", eq(theta(x, 1) * old(1), x), by="pair 1, the fastest, keeps its phase in *old*"),
    D.exact("D5.4", eq(theta(x, 1) * aware(1), x), by="and in bloc97's form"),
)

# %% [markdown]
# *A slip in 9675.* There the term $n/\beta$ is called the one of the highest frequency, and its change, from $n/\beta$ to
# $n/(\beta\lambda)$, is shown to be small. The highest frequency belongs to $n/\beta^0 = n$. It does not change at all
# ([D5.3](#D5.3), [D5.4](#D5.4)), so the conclusion of the post, that high frequencies are extrapolated directly, holds even better than it says.
#
# ## 4 The modulus grows too
#
# The later post looks again at digit $m$. In radix $\beta\lambda$ not only the divisor changes, but the modulus, too, from
# $\beta$ to $\beta\lambda$. So the period of every digit grows by $\lambda$ once more. For digits in whole radices $r$ and
# $r'$ the periods are in the ratio $(r'/r)^m$. A rotation has the fixed modulus $2\pi$; to give pair $m$ the same ratio of
# periods, its phase has to be divided once more. This is *NTK-RoPE-fixed*, claim C4.

# %% tags=["hide-input"]
display(
    D.define("D6.1", eq(fixed(m), k ** (-2 * m / d)), by="one more factor $1/\\lambda$, $\\lambda = k^{2/d}$"),
    D.exact("D6.2", eq(theta(x, m) * fixed(m), x / (k ** (2 / d) * (beta * k ** (2 / d)) ** (m - 1))), by="the form of the post"),
    D.exact("D6.3", eq(1 / old(m), k ** (2 * (m - 1) / d)), by="periods of *old* grow by $\\lambda^{m-1}$ only"),
    D.exact(
        "D6",
        eq(1 / fixed(m), (beta * k ** (2 / d)) ** m / beta**m),
        by="periods of *fixed* grow like those of the digits, by $\\lambda^m$",
    ),
    D.exact("D6.4", eq(fixed(m) / old(m), k ** (-2 / d)), by="so all pairs are slower than with *old*, by one factor"),
    D.exact("D6.5", eq(fixed(P), 1 / k), by="the slowest pair is interpolated"),
    D.exact("D6.6", eq(fixed(1), k ** (-2 / d)), by="the fastest pair is slowed down a little"),
)

# %% [markdown]
# ## 5 A radix for each digit
#
# A number system may have a radix of its own for every digit, as hours, minutes and seconds do. With radices $r_1, r_2, \dots$
# digit $m$ is the quotient of $n$ by $r_1\cdots r_{m-1}$, modulo $r_m$.

# %% tags=["hide-input"]
R = IndexedBase("r", shape=(L,), integer=True, positive=True)
j = Symbol("j", integer=True, positive=True)
weight = Product(R[j], (j, 1, m - 1))
D.domain[R] = Vector(L, Integer(2, 7))
D.numeric(
    "D7.1",
    eq(Sum(Mod(floor(n / weight), R[m]) * weight, (m, 1, L)), Mod(n, Product(R[j], (j, 1, L)))),
    dims={L: (1, 2, 3, 5)},
    by="digits in mixed radices tell numbers apart up to the product of the radices",
)

# %% [markdown]
# So a reach that is $k$ times as large asks only for $\lambda_1\lambda_2\cdots\lambda_P = k$, where $\beta_m = \beta\lambda_m$.
# Who should bear how much? Here the author counts (claim C5). In a causal text of length $N$ the distance $t$ occurs $N - t$ times.
# Large distances are rare, so that the model knows the high digits less well. Then the low digits should bear more:
# $\lambda_1 \ge \lambda_2 \ge \dots \ge \lambda_P \ge 1$.

# %% tags=["hide-input"]
W = Symbol("N", integer=True, positive=True)
i, t, v = (Symbol(y, integer=True, positive=True) for y in ("i", "t", "v"))
z = Symbol("z", integer=True, nonnegative=True)
display(
    D.numeric(
        "D9.1",
        eq(Sum(KroneckerDelta(i - j, t), (j, 1, W), (i, 1, W)), W - t),
        domain={t: Integer(1, 8), W: Integer(8, 12)},
        points=24,
        by="how often the distance $t$ occurs",
    ),
    D.exact(
        "D9.2",
        eq(Sum(W - z, (z, v, W - 1)), (W - v) * (W - v + 1) / 2),
        where=[sp.Lt(v, W)],
        domain={v: Integer(1, 12), W: Integer(2, 40)},
        by="how often a distance of at least $v$ occurs",
    ),
    D.exact(
        "D9",
        eq(Sum(z * (W - z), (z, 0, W - 1)) / Sum(W - z, (z, 0, W - 1)), (W - 1) / 3),
        domain={W: Integer(2, 400)},
        by="the mean distance is a third of the largest",
    ),
)

# %% [markdown]
# The post proposes a family with one parameter: $\lambda_1\cdots\lambda_m = e^{a m^b}$. The product of all has to be $k$, and
# this fixes $a$. The ratio $s$ of new and old frequency is one over that product. This is claim C6.

# %% tags=["hide-input"]
power = Symbol("b", real=True)
rate, mixed, radix_factor = Function("a", nonnegative=True), Function("s", positive=True), Function("lambda^{+}", positive=True)
D.domain[power] = Interval(0, 1)
display(
    D.define("D7.2", eq(rate(power), log(k) / P**power), by="fixed by the product of all"),
    D.define("D7.3", eq(mixed(m, power), exp(-rate(power) * m**power)), by="*NTK-RoPE-mixed*: new over old frequency"),
    D.exact("D7.4", eq(mixed(P, power), 1 / k), by="the slowest pair is interpolated, for every $b$"),
    D.exact("D7", eq(mixed(m, power), k ** (-((2 * m / d) ** power))), by="the family in one line"),
    D.exact("D7.5", eq(mixed(m, 1), fixed(m)), by="$b = 1$: one radix for all digits"),
    D.exact("D7.6", eq(mixed(m, 0), 1 / k), by="$b = 0$: position interpolation"),
)

# %% [markdown]
# Here is a small gap. The post allows $a > 0$ and $b \le 1$. When are the factors ordered as they should be? By
# [D7.3](#D7.3) the logarithms of their products are $a\,m^b$. So the factors do not rise if $m^b$ is concave in $m$, and they
# are at least 1 if it does not fall. The first holds for $0 \le b \le 1$ only, the second for $b \ge 0$.

# %% tags=["hide-input"]
excess = Symbol("c", positive=True)  # for the ranges of b: 1/(1 + c), -c, 1 + c
y = Symbol("y", positive=True)
D.domain[y] = Interval(0.05, 60)
display(
    D.define(
        "D7.7",
        eq(radix_factor(m, power), mixed(m, power) / mixed(m + 1, power)),
        by="$\\lambda_{m+1}$, the factor of digit $m + 1$ (that of digit 1 is $1/s(1, b)$)",
    ),
    D.exact(
        "D7.8",
        eq(log(radix_factor(m, power)), rate(power) * ((m + 1) ** power - m**power)),
        by="the logarithm of a factor is a step of $a\\,m^b$",
    ),
    D.exact(
        "D7.9",
        eq(Derivative(y ** (1 / (1 + excess)), (y, 2)), -excess / (1 + excess) ** 2 * y ** (1 / (1 + excess) - 2)),
        by="$b = 1/(1 + c)$, between 0 and 1: it bends down, the factors fall",
    ),
    D.exact(
        "D7.10",
        eq(Derivative(y ** (1 + excess), (y, 2)), excess * (1 + excess) * y ** (excess - 1)),
        by="$b = 1 + c$, above 1: it bends up, the factors rise",
    ),
    D.exact(
        "D7.11",
        eq(Derivative(y ** (-excess), y), -excess * y ** (-excess - 1)),
        by="$b = -c$, below 0: it falls, and all factors but the first are below 1",
    ),
    D.numeric(
        "D7.12",
        ge(2 * (m + 1) ** power, m**power + (m + 2) ** power),
        domain={m: Integer(1, 40), power: Interval(0, 1)},
        tight={power: 1},
        by="so steps of $m^b$ do not rise for $0 \\le b \\le 1$: $\\lambda_2 \\ge \\lambda_3 \\ge \\dots$",
        uses=["D7.8", "D7.9"],
    ),
)

# %% [markdown]
# So the range that does what the post wants is $0 \le b \le 1$, with interpolation and *fixed* at its ends. The post itself uses
# $b = 0.625$, found by bisection on one model, and $b = 0.75$ in the author's code; both lie inside.
#
# ## 6 What can be proved: angles that training never saw
#
# Now we leave the analogy and ask what a network meets. A score depends on the distance of two tokens through the phases
# of the pairs. In training the distances are below $N$, so pair $m$ shows phases from $0$ to $N\theta_m$, where $\theta_m =
# \beta^{-(m-1)}$ is its phase at distance 1. How many turns is that?

# %% tags=["hide-input"]
turns, last_full, remainder = Function("rho", positive=True), Function("m_*"), Function("psi", nonnegative=True)
phase = Symbol("phi", nonnegative=True)
D.domain[phase] = Interval(0, 60)
display(
    D.define("D8.1", eq(turns(m), N / period(m)), by="turns of pair $m$ over the length of the training"),
    D.define("D8.2", eq(last_full(N), 1 + d / 2 * log(N / (2 * pi)) / log(B)), by="a place among the pairs"),
    D.exact(
        "D8.3",
        eq(N / (2 * pi * beta ** (last_full(N) - 1)), 1),
        by="there a pair makes just one turn; the pairs below make more",
    ),
    D.define("D8.4", eq(remainder(phase), Mod(phase, 2 * pi)), by="a phase without its whole turns, below $2\\pi$"),
    D.numeric(
        "D8.5",
        eq(2 * cos(remainder(phase)) + sin(remainder(phase)), 2 * cos(phase) + sin(phase)),
        by="it is the same rotation: cosine and sine agree, here in one sum",
    ),
)

# %% [markdown]
# **A pair that finished a turn has seen the whole circle.** Taken alone it can meet nothing new, however long the text is.
# (Taken together, pairs can show combinations that are new.) So there is no need to slow it down, and a reason not to: the
# network has learned what its phases mean.
#
# **A pair that did not finish its turn** meets new phases when the text is long. Say that its frequency is multiplied by
# $s$. At length $kN$ it reaches $kN s\,\theta_m$, which is $ks$ times as far as in training. If $ks > 1$ there are new
# phases, since two phases below $2\pi$ are different angles ([D3.9](#D3.9)). If $ks \le 1$ there are none.

# %% tags=["hide-input"]
s0 = Symbol("s", positive=True)
display(
    D.exact("D8.6", eq(s0 * theta(k * N, m) / theta(N, m), k * s0), by="how far pair $m$ gets, relative to training"),
    D.exact("D8.7", eq(k * old(m), k ** (1 - 2 * (m - 1) / d)), by="*old*: above 1 for every pair, also the last"),
    D.exact("D8.8", eq(k * old(P), k ** (2 / d)), by="the last pair of *old*"),
    D.exact("D8.9", eq(k * aware(P), 1), by="bloc97: the last pair meets nothing new"),
    D.exact("D8.10", eq(k * fixed(m), k ** (1 - 2 * m / d)), by="*fixed*: above 1 for every pair but the last"),
    D.exact("D8.11", eq(k * mixed(m, power), k ** (1 - (2 * m / d) ** power)), by="*mixed*: also, but by less"),
    D.exact("D8.12", eq(k * mixed(m, 0), 1), by="interpolation: no pair meets anything new"),
)

# %% [markdown]
# So all NTK forms leave new phases in most of the pairs that need help. How do *mixed* and *fixed* compare? Let $y = 2m/d \le 1$
# be the place of a pair. Since $y^b \ge y$, *mixed* is slower than *fixed* in every pair. Indeed $b$ is one dial for
# everything: when it is turned down, *all* ratios fall together, those of the slow pairs, which is a gain, and those of the fast
# ones, which is a loss.

# %% tags=["hide-input"]
display(
    D.exact(
        "D8.13",
        ge(y**power, y),
        put={y: exp(-grow), power: 1 / (1 + excess)},
        domain={y: Interval(0.01, 1), power: Interval(0.01, 1)},
        by="a power below one raises a number below one",
    ),
    D.numeric(
        "D8.14",
        le(mixed(m, power), fixed(m)),
        where=[sp.Le(m, P)],
        domain={m: Integer(1, 40), P: Integer(1, 40), power: Interval(0, 1)},
        by="*mixed* turns no pair faster than *fixed*",
        uses=["D8.13"],
    ),
    D.exact(
        "D8.15",
        eq(Derivative(k ** (-(y**power)), power), -log(k) * log(y) * y**power * k ** (-(y**power))),
        by="how the ratio of the pair at $y$ changes with $b$: for $y < 1$ it rises",
    ),
    D.exact(
        "D8.16",
        eq(mixed(1, power), k ** (-((2 / d) ** power))),
        by="the price, local resolution: what the fastest pair still turns from one token to the next",
    ),
)

# %% [markdown]
# Interpolation pays most: its fastest pair turns $k$ times less from token to token, so that neighbours look alike. *Old* pays
# nothing there and leaves the most phases new. The family of the post lies between.
#
# Is there a way to have both? The two cases above say what it has to be: $s = 1$ for the pairs that finished a turn, and $s =
# 1/k$ for those that did not. With a soft passage between them this is YaRN, which appeared a month after the post. Its ratio
# depends on the number of turns $\rho$ alone: $1/k$ below $\rho_0$ turns, 1 above $\rho_1$ turns, and linear between.

# %% tags=["hide-input"]
rho, low, high = sp.symbols("rho rho_0 rho_1", positive=True)
ramp, yarn = Function("gamma", real=True), Function("s_Y", real=True)
D.domain.update({low: Interval(0.1, 4), high: Interval(5, 40), rho: Interval(0.01, 60)})
display(
    D.define("D8.17", eq(ramp(rho), Min(1, Max(0, (rho - low) / (high - low)))), by="a ramp from 0 to 1"),
    D.define("D8.18", eq(yarn(rho), (1 - ramp(rho)) / k + ramp(rho)), by="YaRN: new over old frequency"),
    D.exact("D8.19", eq(k * yarn(rho) - 1, (k - 1) * ramp(rho)), opaque=["D8.17"], by="new phases only where the ramp has begun"),
    D.exact("D8.20", eq(yarn(low), 1 / k), by="no new phases up to $\\rho_0 \\le 1$ turns"),
    D.exact("D8.21", eq(yarn(high) + yarn(low), 1 + 1 / k), by="and no change from $\\rho_1$ turns on"),
)

# %% [markdown]
# ## 7 A factor for the concentration, and distances that stop growing
#
# New phases are one cause of failure on long texts. Another is that weights spread over more keys; the chapter on
# [the entropy of the softmax](../attention/entropy-invariant-softmax.ipynb) is about it. There the remedy is a factor $\log n/\log N$ on
# the scores. If a model was trained without it, the post multiplies a query at position $n$ by $f(n) = \max(1, \log n/\log N)$. Then
# nothing changes within the length of the training.

# %% tags=["hide-input"]
factor = Function("f", positive=True)
size = Symbol("v", positive=True)
named = {"put": {N: exp(size), k: exp(grow)}}
display(
    D.define("D10.1", eq(factor(y, N), Max(1, log(y) / log(N))), by="the factor at position $y$"),
    D.exact("D10.2", eq(factor(N / k, N), 1), **named, by="it is 1 up to the length of the training"),
    D.exact("D10", eq(factor(k * N, N), 1 + log(k) / log(N)), **named, by="at $k$ times the length"),
    D.exact("D10.3", eq(factor(4096, 512), Rational(4, 3)), by="from 512 to 4096"),
)

# %% [markdown]
# A month later the same author took another way, *ReRoPE*. It does not touch the frequencies. It lets the distance stop
# growing at a window $w$: tokens further away all count as $w$ away. How can one compute that? A score needs only the difference
# of the two positions. So beyond the window the query is turned by $w$ and the key not at all. Its *leaky* form lets the
# distance grow on, $\kappa$ times slower. Let $\langle q, k\rangle_{x,y}$ be the score of $q$ turned by the phase $x$ and $k$
# turned by $y$, in one pair.

# %% tags=["hide-input"]
q1, q2, k1, k2, at, to = sp.symbols("q_1 q_2 k_1 k_2 x y", real=True)
score = Function("S", real=True)
w, far, leak, more = sp.symbols("w t kappa h", positive=True)
distance = Function("D", positive=True)


def turned(a, b, angle):
    """A pair of coordinates, turned."""
    return a * cos(angle) - b * sin(angle), a * sin(angle) + b * cos(angle)


query, key = turned(q1, q2, at), turned(k1, k2, to)
leaky = (w + (at - w) / leak, to / leak)
display(
    D.define("D12.1", eq(score(at, to), query[0] * key[0] + query[1] * key[1]), by="the score, one pair"),
    D.exact("D12.2", eq(score(at, to), score(at - to, 0)), by="only the difference counts"),
    D.define("D12.3", eq(distance(far, leak), Min(far, w) + Max(far - w, 0) / leak), by="the distance of leaky ReRoPE"),
    D.exact(
        "D12.4",
        eq(score(*leaky), score(w + (at - to - w) / leak, 0)),
        by="two rotations give it beyond the window; without a leak turn $q$ by $w$ and $k$ by nothing",
    ),
    D.limit("D12.5", tends(distance(w + y, leak), leak, oo, w), by="ReRoPE is the limit of a weak leak"),
    D.exact(
        "D12",
        eq(distance(w + leak * more, leak), w + more),
        by="with a leak a text of $w + \\kappa h$ meets no distance beyond $w + h$, as in training at $N = w + h$",
    ),
)
