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
#     minutes: {quick: 1, full: 15}
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
# resolution, and clipping the distance does better
# than any change of speeds that we tried.
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

from kexue_lib.derive import Derivation, Integer, Interval, Vector, eq, ge, le, tends

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
digit, analog, reach = (
    Function(r"\mathrm{dig}", integer=True),
    Function(r"\widetilde{\mathrm{dig}}"),
    Function("R", integer=True),
)
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
    D.numeric(
        "D1.4",
        eq(digit(n, r, L + 1), floor(n / r**L)),
        where=[sp.Lt(n, r ** (L + 1))],
        by="one more digit is 0 for the numbers below $r^L$, and for no number from there on",
    ),
)

# %% [markdown]
# Here is the example of the post: the number 1749, and the least radix in which three digits reach 2000. A digit without its
# floor, $\widetilde{\mathrm{dig}}$, is what division by 2 leaves in the lowest place.

# %% tags=["hide-input"]
whole = Symbol("x", positive=True)
display(
    D.define("D11.1", eq(analog(whole, r), Mod(whole, r)), by="the lowest digit, without the floor"),
    D.define("D11.2", eq(reach(X, L), ceiling(X ** (1 / L))), by="the least radix in which $L$ digits reach below $X$"),
    D.numeric(
        "D11.3",
        eq(10000 * digit(1749, 16, 3) + 100 * digit(1749, 16, 2) + digit(1749, 16, 1), 6 * 10000 + 13 * 100 + 5),
        by="in radix 16: the digits 6, 13, 5, with two places for each",
    ),
    D.exact("D11.4", eq(analog(Rational(1749, 2), 10), Rational(9, 2)), by="halved: the last digit becomes 4.5"),
    D.exact("D11", eq(reach(2000, 3), 13), by="three digits reach 2000 from radix 13 on"),
)

# %% [markdown]
# ## 2 Rotations as digits
#
# Rotary positions turn the coordinates of queries and keys in pairs. A head of width $d$ has $P = d/2$ pairs. Let us count
# them from $m = 1$, the fastest one. Position $x$ turns pair $m$ by the phase $\theta(x, m)$, written $\theta_m$ in the posts. The phases fall in
# geometric progression, and its ratio $\beta$ comes from a constant $B$, usually 10000, that is called the *base* of RoPE.

# %% tags=["hide-input"]
P = Symbol("P", integer=True, positive=True)
d, beta, B, k, lam, N = sp.symbols("d beta B k lambda N", positive=True)
x = Symbol("x", nonnegative=True)
theta, period = Function("theta", nonnegative=True), Function("T", positive=True)
D.domain.update(
    {P: Integer(2, 64), B: Interval(5, 10**6), k: Interval(1, 32), x: Interval(0, 9999), N: Interval(8, 9999)}
)
display(
    D.define("D2.1", eq(d, 2 * P), by="two coordinates make a pair"),
    D.define("D2.2", eq(beta, B ** (2 / d)), by="the ratio of the progression"),
    D.define("D2.3", eq(theta(x, m), x / beta ** (m - 1)), by="phase of pair $m$ at position $x$"),
    D.exact("D2", eq(theta(x, m), x * B ** (-2 * (m - 1) / d)), by="the usual form of the frequencies"),
    D.exact(
        "D2.4", eq(theta(x / k, m), theta(x, m) / k), by="dividing positions by $k$ divides every frequency by $k$"
    ),
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
# fastest one, whose period $2\pi$ is irrational, never repeats at a whole number. (A $\delta$ with two indices is 1 if they are equal, and
# 0 otherwise.)

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
    D.exact(
        "D4.3", eq(theta(x, m) * old(m), x / (beta * k ** (2 / d)) ** (m - 1)), by="digits in radix $\\beta\\lambda$"
    ),
    D.exact(
        "D4", eq(theta(x, m) * old(m), x * (k * B) ** (-2 * (m - 1) / d)), by="the same as RoPE with the base $kB$"
    ),
)

# %% [markdown]
# This method is called *NTK-RoPE-old* in the post, after the neural tangent kernel, through which it was first explained. Before it, bloc97 had fixed the constant in another way, in a
# post on Reddit: the slowest pair, $m = P$, should be slowed down by exactly $k$, as in interpolation. These are claims
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
    D.exact(
        "D6.2",
        eq(theta(x, m) * fixed(m), x / (k ** (2 / d) * (beta * k ** (2 / d)) ** (m - 1))),
        by="the form of the post",
    ),
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
# this fixes $a$. As in *fixed*, the phase of pair $m$ is divided by $\lambda_1\cdots\lambda_m$, its own factor included. So the ratio
# $s$ of new and old frequency is one over that product. This is claim C6.

# %% tags=["hide-input"]
power = Symbol("b", real=True)
rate, mixed, radix_factor = (
    Function("a", nonnegative=True),
    Function("s", positive=True),
    Function(r"\lambda^{+}", positive=True),
)
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
# Does the order matter at all? One can test it, by giving the same factors to the digits in *reverse* order. Their product is the
# same, and so is the reach. The first $m$ digits then bear what the last $m$ did before.

# %% tags=["hide-input"]
backward = Function(r"s_{\mathrm{rev}}", positive=True)
mirror = k ** (-((2 * (P - m) / d) ** power))  # the ratio of the pair P - m
D.domain.update({m: Integer(1, 8), P: Integer(9, 64)})
display(
    D.define(
        "D7.13", eq(backward(m, power), k ** ((1 - 2 * m / d) ** power - 1)), by="the ratio with the factors in reverse"
    ),
    D.exact(
        "D7.14",
        eq(backward(m, power) * mirror, 1 / k),
        by="the first $m$ factors reversed, times the first $P - m$ as they were, make $k$",
    ),
)

# %% [markdown]
# ## 6 What can be proved: angles that training never saw
#
# Now we leave the analogy and ask what a network meets. A score depends on the distance of two tokens through the phases
# of the pairs. In training the distances are below $N$, so pair $m$ shows phases from $0$ to $N\theta_m$, where $\theta_m =
# \theta(1, m)$ is its phase at distance 1. How many turns is that?

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
# **A pair that finished a turn has seen the whole circle**, at whole distances up to gaps of one step $\theta_m$. Taken alone it can
# meet nothing new, however long the text is.
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
# So the NTK forms leave new phases in every pair that needs help, but for the last one at most. How do *mixed* and *fixed* compare? Let $y = 2m/d \le 1$
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
# depends on the number of turns $\rho$ alone: $1/k$ below $\rho_0$ turns, 1 above $\rho_1$ turns (1 and 32 in the
# paper), and linear between.

# %% tags=["hide-input"]
rho, low, high = sp.symbols("rho rho_0 rho_1", positive=True)
ramp, yarn = Function("gamma", real=True), Function("s_Y", real=True)
D.domain.update({low: Interval(0.1, 4), high: Interval(5, 40), rho: Interval(0.01, 60)})
display(
    D.define("D8.17", eq(ramp(rho), Min(1, Max(0, (rho - low) / (high - low)))), by="a ramp from 0 to 1"),
    D.define("D8.18", eq(yarn(rho), (1 - ramp(rho)) / k + ramp(rho)), by="YaRN: new over old frequency"),
    D.exact(
        "D8.19",
        eq(k * yarn(rho) - 1, (k - 1) * ramp(rho)),
        opaque=["D8.17"],
        by="new phases only where the ramp has begun",
    ),
    D.exact("D8.20", eq(yarn(low), 1 / k), by="no new phases up to $\\rho_0 \\le 1$ turns"),
    D.exact("D8.21", eq(yarn(high) + yarn(low), 1 + 1 / k), by="and no change from $\\rho_1$ turns on"),
)

# %% [markdown]
# ## 7 A factor for the concentration, and distances that stop growing
#
# New phases are one cause of failure on long texts. Another is that weights spread over more keys; the chapter on
# the entropy of the softmax is about it. There the remedy is a factor $\log n/\log N$ on
# the scores. If a model was trained without it, the post multiplies a query at position $n$ by $f(n) = \max(1, \log n/\log N)$. Then
# nothing changes within the length of the training. (YaRN has a constant factor of its own for this; we leave it out, to compare
# frequencies alone.)

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
# A week later the same author took another way, *ReRoPE*. It does not touch the frequencies. It lets the distance stop
# growing at a window $w$: tokens further away all count as $w$ away. How can one compute that? A score needs only the difference
# of the two positions. So beyond the window the query is turned by $w$ and the key not at all. Its *leaky* form lets the
# distance grow on, $\kappa$ times slower. Let $S(x, y)$ be the score of $q$ turned by the phase $x$ and $k$
# turned by $y$, in one pair, and $D(t, \kappa)$ the distance that stands for $t$.

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

# %% [markdown]
# ## 8 What will be tested, and by which rule
#
# The two posts make ten claims that can be tested, some of them in parts. Each gets its rule here, before
# anything is measured. A claim *holds* when every condition of its rule is met, *partly* when some are, and *fails* when none
# is. A claim that this run cannot test stays *open*. The rules were set with pilot networks from other seeds than those of this page.
# There the rule of C7b became milder: it first asked for one point at $2N$. And it turned out that the forms of NTK scaling cannot be told
# apart by networks as small as these, so that C7d and C7e are left to a full run. One number was changed later, when seeds 0 to 2 had
# been seen: 80 test windows in place of 96, to save time. The rules stayed, and the verdicts of the three seeds were the same before and after.

# %% tags=["experiment", "hide-input"]
import math

import numpy as np
import torch

from kexue_lib import lab, positions
from kexue_lib.lab import Criterion, settled
from kexue_lib.lab.language import PositionRule

run = lab.Run(scale=scale, seed=seed, device=device)
claims = lab.Claims("beta-base-positions")
SAMPLED = ("proved", "sampled")
full_only = {"open_because": "needs a larger network: only in a full run"}

claims.register(
    "C1",
    r"apart from the floor, RoPE writes $n$ in radix $\beta = 10000^{2/d}$",
    kind="heuristic",
    how="proved as far as it goes; a head of width 64; positions 0 to 63",
    criteria=[
        settled(D["D2"], "the frequencies are powers of the radix"),
        Criterion(
            "period",
            "digit and rotation have the same period, within 10 %",
            lambda v: abs(v["period over that of a digit"] - 1) <= 0.1,
        ),
        Criterion(
            "floor",
            "without the floor one place tells no more positions apart than with it",
            lambda v: v["told apart by one pair"] <= v["told apart by one digit"],
        ),
    ],
    evidence=["D3", "D3.4", "D3.8", "D3.9"],
)
claims.register(
    "C2",
    "extrapolation, interpolation and a larger base are a new digit, the division of $n$ by $k$, and a larger radix",
    kind="exact",
    how="proved; the digits sampled",
    criteria=[
        settled(D["D1.4"], "a new digit", accept=SAMPLED),
        settled(D["D2.4"], "division by $k$"),
        settled(D["D4.3"], "a larger radix"),
    ],
)
claims.register(
    "C3",
    r"$\lambda = k^{2/d}$ is the base $10000\,k$; matching the slowest pair gives $\lambda = k^{2/(d-2)}$",
    kind="exact",
    how="proved",
    steps=[D["D4.1"], D["D4"], D["D5.2"], D["D5"]],
)
claims.register(
    "C4",
    r"the modulus grows, too: $\theta_m = n / (\lambda(\beta\lambda)^{m-1})$",
    kind="exact",
    how="within the analogy: periods grow like those of the digits",
    steps=[D["D6.2"], D["D6"]],
    evidence=["D3.1"],
)
claims.register(
    "C5",
    "large distances are rarer in training, so the low digits should bear more of the expansion",
    kind="heuristic",
    how=r"counted; the factors of $b = 0.625$ in the order of the post against the reverse order, on one trained network",
    criteria=[
        settled(D["D9.2"], "large distances are rarer"),
        Criterion(
            "long",
            "two, four and eight times the length: the order of the post is at least 0.05 nats better each time",
            lambda v: min(v[f"nats better at {times} times"] for times in (2, 4, 8)) >= 0.05,
        ),
        Criterion(
            "home",
            "at the length of the training, frequencies for eight times: it costs no more points",
            lambda v: v["cost at home, order of the post"] <= v["cost at home, reverse order"],
        ),
    ],
    evidence=["D7.14"],
)
claims.register(
    "C6a",
    r"the family $\lambda_1\cdots\lambda_m = e^{a m^b}$ contains *fixed* ($b = 1$) and interpolation ($b = 0$)",
    kind="exact",
    how="proved",
    steps=[D["D7.4"], D["D7.5"], D["D7.6"]],
)
claims.register(
    "C6b",
    r"its factors satisfy $\lambda_1 \ge \lambda_2 \ge \dots \ge 1$ for $a > 0$, $b \le 1$",
    kind="exact",
    how=r"sampled for $0 \le b \le 1$; computed for $b = -\frac12$, 32 pairs, $k = 8$",
    criteria=[
        settled(D["D7.12"], r"for $0 \le b \le 1$", accept=SAMPLED),
        Criterion("below 0", r"for $b = -\frac12$: least factor at least 1", lambda v: v["least factor"] >= 1),
    ],
    evidence=["D7.11"],
)
claims.register(
    "C7a",
    "direct extrapolation fails",
    kind="empirical",
    how="one network trained on windows of its length $N$, next characters; accuracy on the same characters at $2N$, $4N$, $8N$",
    criteria=[
        Criterion("2", "at $2N$: at least 2 points lost", lambda v: v["points lost at 2 times"] >= 2),
        Criterion("4", "at $4N$: at least 8 points lost", lambda v: v["points lost at 4 times"] >= 8),
        Criterion("8", "at $8N$: at least 12 points lost", lambda v: v["points lost at 8 times"] >= 12),
    ],
)
claims.register(
    "C7b",
    "without fine-tuning, interpolation is worse still",
    kind="empirical",
    how="the network of C7a, mean accuracy at $2N$ and $4N$",
    criteria=[
        Criterion("PI", "below the unchanged network", lambda v: v["PI over RoPE, points"] < 0),
    ],
)
claims.register(
    "C7c",
    "NTK scaling works without fine-tuning, at up to eight times the length",
    kind="empirical",
    how="NTK-fixed on the network of C7a; the post keeps 80 % of the accuracy at $8N$ on plain text",
    criteria=[
        Criterion(
            "2", "at $2N$: at least 1 point above the unchanged network", lambda v: v["gain at 2 times, points"] >= 1
        ),
        Criterion("8", "at $8N$: at least 75 % of the accuracy at $N$", lambda v: v["share kept at 8 times"] >= 0.75),
    ],
)
noise = {
    "open_because": "the post's differences are near one point on plain text, the noise of a small network: only in a full run"
}
claims.register(
    "C7d",
    "*fixed* is better than *old*",
    kind="empirical",
    how="both on the larger network, plain text",
    **run.pick(
        quick=noise,
        full={
            "criteria": [
                Criterion(
                    "order",
                    "at $2N$, $4N$, $8N$: *fixed* above *old*",
                    lambda v: min(v[f"fixed over old at {times} times"] for times in (2, 4, 8)) > 0,
                )
            ]
        },
    ),
)
claims.register(
    "C7e",
    "*mixed* ($b = 0.625$) is the best of the NTK forms",
    kind="empirical",
    how="against *fixed* on the larger network, plain text",
    **run.pick(
        quick=noise,
        full={
            "criteria": [
                Criterion(
                    "order",
                    "at $2N$, $4N$, $8N$: *mixed* above *fixed*",
                    lambda v: min(v[f"mixed over fixed at {times} times"] for times in (2, 4, 8)) > 0,
                )
            ]
        },
    ),
)
claims.register(
    "C7f",
    "the methods cost nothing at the length of the training (as the first column of the post's tables may be read)",
    kind="empirical",
    how="the network of C7a with the frequencies for $8N$, on texts of length $N$",
    criteria=[
        Criterion(name, f"{name}: at most 1 point lost", lambda v, name=name: v[f"lost by {name}"] <= 1)
        for name in ("PI", "NTK-fixed", "NTK-mixed")
    ],
)
claims.register(
    "C7g",
    r"a model that was trained with the factor $\log n/\log N$ gains more from the NTK forms",
    kind="empirical",
    how="two larger networks, with and without the factor, at $8N$",
    **run.pick(
        quick=full_only,
        full={
            "criteria": [
                Criterion(name, f"{name}: better with the factor", lambda v, name=name: v[f"{name} at 8 times"] > 0)
                for name in ("NTK-old", "NTK-fixed", "NTK-mixed")
            ]
        },
    ),
)
claims.register(
    "C8",
    r"a model that was trained without it gains from the factor $\max(1, \log n/\log N)$, too",
    kind="empirical",
    how="the network of C7a with the factor at test time only; change of the cross-entropy at $8N$",
    criteria=[
        settled(D["D10.2"], "nothing changes up to the length of the training"),
        Criterion("ReRoPE", "ReRoPE: at least 0.01 nats lower", lambda v: v["ReRoPE"] <= -0.01),
        Criterion(
            "NTK",
            "NTK-fixed and NTK-mixed: each at least 0.1 nats lower",
            lambda v: max(v["NTK-fixed"], v["NTK-mixed"]) <= -0.1,
        ),
    ],
)
claims.register(
    "C9",
    "NTK scaling keeps the dependence on the distant past",
    kind="empirical",
    how="the larger network at $8N$, on texts that repeat $3N$ characters, against plain ones",
    **run.pick(
        quick=full_only,
        full={
            "criteria": [
                *(
                    Criterion(
                        name, f"{name}: at least 2 points higher", lambda v, name=name: v[f"{name} at 8 times"] >= 2
                    )
                    for name in ("NTK-old", "NTK-fixed", "NTK-mixed")
                ),
                Criterion(
                    "window",
                    "and by more than the window, which cannot look back",
                    lambda v: (
                        min(v[f"{name} at 8 times"] for name in ("NTK-old", "NTK-fixed", "NTK-mixed"))
                        > v["window at 8 times"]
                    ),
                ),
            ]
        },
    ),
)
claims.register(
    "C10",
    "any scheme works that leaves the high frequencies alone and interpolates the low ones",
    kind="heuristic",
    how="YaRN with a ramp from 1 to 4 turns, and the cut of section 6, on the network of C7a; all places to cut at $4N$",
    criteria=[
        *(
            Criterion(
                f"{name} {times}",
                f"{name} at ${times}N$: at least 0.05 nats below the best of NTK-old, -fixed, -mixed",
                lambda v, name=name, times=times: v[f"{name} at {times} times, nats below the best NTK form"] >= 0.05,
            )
            for name in ("YaRN", "cut")
            for times in (4, 8)
        ),
        Criterion(
            "place",
            "the best number of pairs to leave alone is within 2 of the number that finished a turn",
            lambda v: abs(v["best number of pairs"] - v["pairs that finish a turn"]) <= 2,
        ),
    ],
    evidence=["D8.3", "D8.5", "D8.6"],
)
claims.table()

# %% [markdown]
# ## 9 Digits and rotations, drawn
#
# First a look at the analogy where it is at its best, with $\beta = 2$: six binary digits against six pairs of a RoPE with
# the base 64. Rows with the same number have steps of the same length. But a digit rests within its blocks, and a rotation never
# does; and the period of a rotation is not twice its step, but $2\pi$ times.

# %% tags=["experiment", "hide-input"]
numbers = torch.arange(64)
bits = positions.digits(numbers, 2, 6)
waves = torch.cos(numbers[:, None] * positions.rope_inv_freq(12, 64.0, dtype=torch.float64))
slowest = positions.rope_inv_freq(64, dtype=torch.float64)[-1] * numbers  # a usual head of width 64
told_by_pair = len({(round(float(v.cos()), 9), round(float(v.sin()), 9)) for v in slowest})
claims.measure(
    "C1",
    {
        "period over that of a digit": 2 * math.pi / 10000 ** (2 / 64),
        "told apart by one pair": told_by_pair,
        "told apart by one digit": len(bits[:, -1].unique()),
    },
)

places = np.arange(1, 33) / 32
products = np.log(8) * places**-0.5  # logarithms of the products for b = -1/2, k = 8
claims.measure("C6b", {"least factor": float(np.exp(np.diff(products, prepend=0)).min())})

with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.0), sharey=True)
    for axes, image, low_end, name in (
        (left, bits.double(), 0, "Binary digits"),
        (right, waves, -1, "Rotations, $\\beta = 2$"),
    ):
        axes.imshow(
            image.T,
            cmap="Blues",
            aspect="auto",
            interpolation="nearest",
            vmin=low_end,
            vmax=1,
            extent=(-0.5, 63.5, 6.5, 0.5),
        )
        axes.set(xlabel="number $n$")
        axes.grid(False)
        lab.style.title(axes, name)
    left.set_ylabel("digit or pair $m$")
lab.figure(
    fig,
    name="digits",
    title="A digit rests in its block, a rotation never does",
    caption=(
        "**Figure 1.** Left: the binary digits of the numbers 0 to 63, dark for 1. Right: the cosines of six rotations whose "
        "frequencies fall by halves. Each row of the left is needed to know $n$. On the right one slow row is enough, and the others "
        "show the same number at finer resolution."
    ),
    alt=(
        "Two pictures with six rows and 64 columns. Left: stripes of black and white, each row with stripes twice as long as the "
        "row above. Right: waves, each with twice the length of the one above, and longer than the stripes."
    ),
    data={"n": numbers.tolist(), "sixth digit": bits[:, -1].tolist(), "sixth cosine": waves[:, -1].tolist()},
)

# %% [markdown]
# ## 10 What each method does to each pair
#
# Now the methods. Figure 2 shows, for the heads that we shall train, the ratio of new and old frequency, and how far each pair turns
# at eight times the length. What lies between the curve of the training and that of a method, below one turn, is new to
# the network.

# %% tags=["experiment", "hide-input"]
small = run.scale == "quick"
TRAINED_AT = 64 if small else max(32, 256 // shrink)
HEAD = 32 if small else 64
heads = 2 if small else max(1, 8 // shrink)
inv_freq = positions.rope_inv_freq(HEAD)
pair = torch.arange(1, HEAD // 2 + 1)
full_turns = int((inv_freq * TRAINED_AT >= 2 * math.pi).sum())
RAMP = {"train_len": TRAINED_AT, "low": 1.0, "high": 4.0}


def scaled(method, times, **options):
    """The frequencies of a method for texts of so many times the length."""
    return positions.scale_rope(inv_freq, times, method, **options)


def reversed_order(times, b=0.625):
    """The factors of NTK-mixed in reverse order (D7.13)."""
    return inv_freq * times ** ((1 - pair / len(pair)) ** b - 1)


def cut_after(count, times):
    """The first pairs as they are, the others interpolated."""
    return torch.where(pair <= count, inv_freq, inv_freq / times)


frequencies = {
    "RoPE": lambda times: inv_freq,
    "PI": lambda times: scaled("pi", times),
    "NTK-old": lambda times: scaled("ntk", times),
    "NTK-fixed": lambda times: scaled("ntk_fixed", times),
    "NTK-mixed": lambda times: scaled("ntk_mixed", times, b=0.625),
    "reversed": reversed_order,
    "YaRN": lambda times: scaled("yarn", times, **RAMP),
    "cut": lambda times: cut_after(full_turns, times),
}
COLOUR = dict(
    zip(frequencies, [lab.style.INK, *lab.style.COLOURS[:5], lab.style.COLOURS[0], lab.style.COLOURS[1]], strict=True)
)
LOOK = {
    name: {"color": COLOUR[name], "linestyle": "--" if k >= 6 else "-", "marker": lab.style.MARKERS[k % 6]}
    for k, name in enumerate(frequencies)
}
coverage = {name: positions.phase_coverage(inv_freq, TRAINED_AT, 8, of(8)) for name, of in frequencies.items()}

with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.8))
    trained_turns = coverage["RoPE"].turns
    for name, found in coverage.items():
        left.plot(pair, found.ratio / 8, **LOOK[name], markersize=3.5, label=name)
        if name in ("RoPE", "PI", "NTK-fixed", "NTK-mixed", "cut"):
            right.plot(pair, found.ratio * trained_turns, **LOOK[name], markersize=3.5)
    right.plot(pair, trained_turns, color=lab.style.MUTED, marker="", linestyle=":", linewidth=3, label="in training")
    for axes in (left, right):
        axes.axvspan(0.5, full_turns + 0.5, color=lab.style.GRID, zorder=0)
        axes.set(yscale="log", xlabel="pair $m$", xlim=(0.5, len(pair) + 0.5))
        axes.set_xticks([1, *range(4, len(pair) + 1, 4)])
    right.axhline(1, color=lab.style.MUTED, linewidth=0.8)
    left.set_yticks([1, 1 / 2, 1 / 4, 1 / 8], ["1", "1/2", "1/4", "1/8"])
    left.set_yticks([], minor=True)
    left.set_ylabel("new over old frequency $s$")
    right.set_ylabel("turns at eight times the length")
    right.legend(loc="upper right", fontsize=8)
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    lab.style.title(left, "What is changed")
    lab.style.title(right, "How far it turns")
lab.figure(
    fig,
    name="pairs",
    title="Which pairs a method slows down, and which meet new angles",
    caption=(
        "**Figure 2.** Factor 8; shaded: the pairs that finished a turn in training. Right: a pair below one turn (thin line) meets "
        "new angles where its curve lies above the dotted one. Interpolation and the cut stay on it there; the NTK forms lie "
        "above it, and meet it at the last pair only."
    ),
    alt=(
        "Left: ratios against the pair, on a logarithmic axis. Interpolation is constant at one eighth, the cut falls from one to one "
        "eighth in one step, the others fall along curves. Right: turns against the pair, falling straight lines; that of "
        "unchanged RoPE lies eight times above that of the training."
    ),
    data={
        "pair": pair.tolist(),
        **{f"s {name}": (found.ratio / 8).tolist() for name, found in coverage.items()},
        "turns in training": trained_turns.tolist(),
    },
)
meets_new = {name: int(found.new.sum()) for name, found in coverage.items()}
print(f"{full_turns} of {len(pair)} pairs finish a turn; pairs that meet new angles at eight times the length:")
print(" · ".join(f"{name} {count}" for name, count in meets_new.items()))

# %% [markdown]
# The shaded pairs need no help. Among the others the NTK forms leave all but the last with
# new angles, as [D8.7](#D8.7) to [D8.11](#D8.11) say. The *cut* is what section 6 asks for, without a soft passage: the pairs that
# finished a turn stay, the others are interpolated. It has no new angles for any single pair.
#
# A warning to users of YaRN. In its paper the ramp is linear in the number of turns, as in [D8.17](#D8.17); in its published code, and in
# libraries that follow it, it is linear in the number of the pair. The two are not the same. (Llama 3.1 uses the form of the paper, with
# $\rho_1 = 4$.) How far are they apart for the heads of LLaMA 2, 128 wide, from 4096 to sixteen times as much?

# %% tags=["experiment", "hide-input"]
llama = positions.rope_inv_freq(128, dtype=torch.float64)
by_turns, by_pairs = (positions.scale_rope(llama, 16, method, train_len=4096) for method in ("yarn", "yarn_pairs"))
apart = torch.maximum(by_pairs / by_turns, by_turns / by_pairs)
print("largest ratio of the two frequencies:", lab.approx(float(apart.max()), 3))
print(f"pairs whose frequencies differ by more than 1 %: {int((apart > 1.01).sum())} of {len(llama)}")

# %% [markdown]
# ## 11 One network, all methods
#
# We train one small network that predicts the next character of the King James Bible: two layers, two heads of width 32, windows
# of 64 characters. (In a full run: eight layers, eight heads of width 64, windows of 256.) Then it is tested on longer windows, always on *the same characters* at the end of the window. Only
# the context becomes longer. A network that could use it would get better; one that merely stands it would stay level. No weight
# changes between the methods. Two references are not about frequencies at all: a *window*, in which no query sees more than
# the last $N$ characters, and ReRoPE with $w = N/2$.

# %% tags=["experiment", "hide-input"]
text = lab.data.kjv().lower()
vocabulary = lab.text.Vocabulary(text, size=95)
train_text, test_text = lab.text.split(vocabulary.encode(text))
windows = lab.language.test_windows(
    test_text,
    count=max(8, run.pick(quick=80, full=256) // shrink),
    longest=8 * TRAINED_AT,
    generator=run.generator("windows"),
)


def trained(rule=None):
    """Train one network; the full one also on texts that repeat themselves."""
    model = lab.language.CausalDecoder(
        len(vocabulary),
        dim=heads * HEAD,
        depth=2 if small else max(1, 8 // shrink),
        heads=heads,
        attention=lambda *_: lab.language.RotaryAttention(rule),
        generator=run.generator("weights"),
    ).to(run.device)
    batches = lab.text.causal_batches(
        train_text,
        batch=max(4, run.pick(quick=32, full=64) // shrink),
        n=TRAINED_AT,
        generator=run.generator("batches"),
    )
    if not small:
        batches = lab.language.repeating_batches(batches, share=0.5, generator=run.generator("periods"))
    lab.training.train(
        model,
        batches,
        steps=max(20, run.pick(quick=400, full=3000) // shrink),
        lr=run.pick(quick=3e-3, full=5e-4),
        warmup=max(2, run.pick(quick=30, full=200) // shrink),
        clip=1.0,
        loss=lab.training.causal_loss,
        optimizer=lambda model, lr: torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
        schedule="cosine",
        autocast=run.autocast,
    )
    return model


def read(model, rule, times, texts=None):
    """Accuracy (%) and cross-entropy (nats) on the same characters, in texts of so many times the length."""
    (found,) = lab.language.evaluate_lengths(
        model,
        windows if texts is None else texts,
        train_len=TRAINED_AT,
        multiples=(times,),
        rule=rule,
        autocast=run.autocast,
    )
    return np.array([100 * found.accuracy, found.cross_entropy])


def rules(times, **more):
    """All methods for one length; more: further changes, such as the factor log n."""
    found = {name: PositionRule(of(times), **more) for name, of in frequencies.items()}
    found["ReRoPE"] = PositionRule(rerope=TRAINED_AT / 2, **more)
    found["window"] = PositionRule(window=TRAINED_AT, **more)
    return found


MULTIPLES = (2, 4, 8)
model = trained()
at_home = read(model, None, 1)
result = {(name, times): read(model, rule, times) for times in MULTIPLES for name, rule in rules(times).items()}
with_factor = ("NTK-fixed", "NTK-mixed", "cut", "ReRoPE")
dagger = {(name, 8): read(model, rules(8, logn=TRAINED_AT)[name], 8) for name in with_factor}
cost = {
    name: at_home - read(model, rule, 1) for name, rule in rules(8).items()
}  # accuracy lost, nats gained (negative)


def points(name, times, table=None):
    """Accuracy in %."""
    return float((result if table is None else table)[name, times][0])


def nats(name, times, table=None):
    """Cross-entropy."""
    return float((result if table is None else table)[name, times][1])


claims.measure(
    "C7a", {f"points lost at {times} times": float(at_home[0]) - points("RoPE", times) for times in MULTIPLES}
)
claims.measure(
    "C7b", {"PI over RoPE, points": float(np.mean([points("PI", times) - points("RoPE", times) for times in (2, 4)]))}
)
claims.measure(
    "C7c",
    {
        "gain at 2 times, points": points("NTK-fixed", 2) - points("RoPE", 2),
        "share kept at 8 times": points("NTK-fixed", 8) / float(at_home[0]),
    },
)
claims.measure("C7f", {f"lost by {name}": float(cost[name][0]) for name in ("PI", "NTK-fixed", "NTK-mixed", "ReRoPE")})
claims.measure(
    "C5",
    {
        **{f"nats better at {times} times": nats("reversed", times) - nats("NTK-mixed", times) for times in MULTIPLES},
        "cost at home, order of the post": float(cost["NTK-mixed"][0]),
        "cost at home, reverse order": float(cost["reversed"][0]),
    },
)
claims.measure("C8", {name: nats(name, 8, dagger) - nats(name, 8) for name in with_factor})

SHOWN = ("RoPE", "PI", "NTK-fixed", "NTK-mixed", "YaRN", "cut", "ReRoPE", "window")
LOOK["ReRoPE"] = {"color": lab.style.COLOURS[2], "linestyle": "--", "marker": "P"}
LOOK["window"] = {"color": lab.style.MUTED, "linestyle": ":", "marker": "*"}
with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.8), sharex=True)
    for name in SHOWN:
        rows = np.array([at_home, *(result[name, times] for times in MULTIPLES)])
        left.plot((1, *MULTIPLES), rows[:, 0], **LOOK[name], label=name)
        right.plot((1, *MULTIPLES), rows[:, 1], **LOOK[name])
    for axes in (left, right):
        axes.set(xscale="log", xlabel="length over that of the training")
        axes.set_xticks((1, *MULTIPLES), [str(times) for times in (1, *MULTIPLES)])
        axes.set_xticks([], minor=True)
    left.set_ylabel("accuracy (%)")
    right.set_ylabel("cross-entropy (nats)")
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    lab.style.title(left, "Accuracy on the same characters")
    lab.style.title(right, "Cross-entropy")
lab.figure(
    fig,
    name="lengths",
    title="One network, eight methods",
    caption=(
        "**Figure 3.** The factor of each method is the length it is tested at; at length 1 all are the unchanged network. The scored "
        "characters are the same everywhere, so that only the context grows."
    ),
    alt=(
        "Accuracy and cross-entropy against the length, with a curve for each method. The window and ReRoPE stay nearly level; YaRN "
        "and the cut fall slowly, the NTK forms, interpolation and the unchanged network much faster."
    ),
    data={
        "length": [1, *MULTIPLES],
        **{f"{name}, %": [float(at_home[0]), *(points(name, times) for times in MULTIPLES)] for name in rules(2)},
        **{f"{name}, nats": [float(at_home[1]), *(nats(name, times) for times in MULTIPLES)] for name in rules(2)},
        "with log n at 8": [points(name, 8, dagger) for name in with_factor],
    },
)
print(f"unchanged network at length {TRAINED_AT}:", lab.approx(at_home[0], 3), "%,", lab.approx(at_home[1], 3), "nats")
for name in rules(2):
    print(f"{name}:", *(f"{times} times {lab.approx(points(name, times), 3)} %;" for times in MULTIPLES))
print("with log n†, 8 times:", *(f"{name} {lab.approx(points(name, 8, dagger), 3)} %;" for name in with_factor))

# %% [markdown]
# The standard error of an accuracy is about one point; between two methods on the same characters it is less. Differences of that size
# between NTK-old, -fixed and -mixed change their sign from network to network, so this page does not judge them. What does not
# change, at four times the length, is the order of the groups: interpolation, then the NTK forms, then YaRN and the cut, then ReRoPE
# and the window.
#
# The window is level because it hides everything far away; no recall from a distance is possible with it. ReRoPE sees
# the whole text. Why it is not level on its own is the second cause, the weights that spread over more keys: with the factor $\log n$
# it is nearly level. For the cut the factor does not repair what is left; combinations of
# angles may be new although no single angle is.
#
# ## 12 Where to cut
#
# Section 6 makes a sharp prediction. Interpolate the slow pairs and leave the first $c$ pairs alone. For $c = 0$ this is
# interpolation, for $c = P$ the unchanged network. The best $c$ should be near the number of pairs that finished a turn in training:
# below it useful pairs are spoilt, above it new angles come in.

# %% tags=["experiment", "hide-input"]
counts = sorted({*range(min(9, len(pair))), *range(0, len(pair) + 1, 1 if not small else 2)})
swept = np.array([read(model, PositionRule(cut_after(count, 4)), 4) for count in counts])
best = counts[int(swept[:, 1].argmin())]
claims.measure(
    "C10",
    {
        **{
            f"{name} at {times} times, nats below the best NTK form": min(
                nats(other, times) for other in ("NTK-old", "NTK-fixed", "NTK-mixed")
            )
            - nats(name, times)
            for name in ("YaRN", "cut")
            for times in (4, 8)
        },
        "best number of pairs": best,
        "pairs that finish a turn": full_turns,
    },
)
with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.8), sharex=True)
    for axes, column, label in ((left, 0, "accuracy (%)"), (right, 1, "cross-entropy (nats)")):
        axes.axvspan(-0.5, full_turns + 0.5, color=lab.style.GRID, zorder=0)
        axes.plot(counts, swept[:, column])
        axes.set(xlabel="pairs left alone $c$", ylabel=label, xlim=(-0.5, len(pair) + 0.5))
        axes.set_xticks(range(0, len(pair) + 1, len(pair) // 8))
    lab.style.title(left, "Accuracy at four times the length")
    lab.style.title(right, "Cross-entropy")
lab.figure(
    fig,
    name="cut",
    title="How many pairs should be left alone?",
    caption=(
        "**Figure 4.** The first $c$ pairs keep their frequency, the others are divided by 4; texts of four times the length. Shaded: up to the "
        "number of pairs that finished a turn in training. Left end: interpolation. Right end: the unchanged network."
    ),
    alt=(
        "Two panels against the number of pairs left alone. Accuracy rises steeply to a maximum near the edge of the shaded region and "
        "falls beyond it; the cross-entropy does the opposite."
    ),
    data={"c": counts, "accuracy": swept[:, 0], "cross-entropy": swept[:, 1]},
)
print("best number of pairs left alone:", best, "· pairs that finish a turn:", full_turns)

# %% [markdown]
# On the left, pairs that are interpolated although they finished their turn cost accuracy. Beyond the edge new angles do the
# damage. And far to the right nothing changes any more. These pairs turn so little, even on the long text, that it does not
# matter what is done to them.
#
# ## 13 What a method costs at home
#
# The first column of the post's tables gives one accuracy at the length of the training for all methods, evidently that of
# the unchanged model. If the changed one is used for short texts, too, which is what happens when a model is shipped with new frequencies, it pays.
# Figure 5 plots this price against the gain, for a factor of 4. The family with $b$ is a curve: one dial, as [D8.15](#D8.15)
# says.

# %% tags=["experiment", "hide-input"]
dial = (0.0, 0.25, 0.5, 0.625, 0.75, 1.0)
home4 = {name: read(model, rule, 1) for name, rule in rules(4).items()}
known = {0.0: "PI", 0.625: "NTK-mixed", 1.0: "NTK-fixed"}
family = []
for b_value in dial:
    if b_value in known:
        family.append((home4[known[b_value]][0], points(known[b_value], 4)))
    else:
        rule = PositionRule(scaled("ntk_mixed", 4, b=b_value))
        family.append((read(model, rule, 1)[0], read(model, rule, 4)[0]))
with lab.style.use() as plt:
    fig, ax = plt.subplots(figsize=(7.2, 4.4))
    ax.plot(
        *zip(*family, strict=True),
        color=COLOUR["NTK-mixed"],
        linestyle="-",
        markersize=4,
        label="NTK-mixed, $b$ from 0 to 1",
    )
    for name in ("RoPE", "PI", "NTK-old", "NTK-fixed", "reversed", "YaRN", "cut", "ReRoPE"):
        at_four = (home4[name][0], points(name, 4))
        right_of = name != "NTK-fixed"
        ax.plot(*at_four, color=lab.style.INK, marker="s", markersize=5, linestyle="none")
        ax.annotate(
            name,
            at_four,
            xytext=(6, {"reversed": 4, "PI": -9}.get(name, -3)) if right_of else (-4, 7),
            textcoords="offset points",
            ha="left" if right_of else "right",
            fontsize=8.5,
            color=lab.style.INK,
        )
    ax.set(xlabel="accuracy at the length of the training (%)", ylabel="accuracy at four times the length (%)")
    ax.margins(x=0.14)
    ax.legend(loc="upper left")
lab.figure(
    fig,
    name="price",
    title="Long texts against short ones, with the same changed network",
    caption=(
        "**Figure 5.** Every method set to a factor of 4. Horizontal: accuracy on texts of the length of the training. Vertical: on texts of "
        "four times the length. Better is up and to the right."
    ),
    alt=(
        "Points for the methods. ReRoPE lies far up on the right, the cut below it, interpolation far down on the left. The family with b is a "
        "curve from interpolation on the left to NTK-fixed on the right."
    ),
    data={
        "b": list(dial),
        "b, at home": [float(one) for one, _ in family],
        "b, at four times": [float(other) for _, other in family],
        **{name: [float(home4[name][0]), points(name, 4)] for name in home4},
    },
)
for name in ("PI", "NTK-old", "NTK-fixed", "NTK-mixed", "YaRN", "cut", "ReRoPE"):
    print(f"{name}, set to 8, costs at home: {lab.approx(cost[name][0], 2)} points")

# %% [markdown]
# The family with $b$ goes the wrong way round the corner. Between $b = 1$ and $b = 0.5$ it gains little or nothing on long texts, depending
# on the network, and pays several points at home: its low digits, the ones with the finest resolution, bear the expansion. In a
# wide head this price is smaller (exercise 2). The same factors in reverse order leave the low digits nearly alone and cost
# little. Which of the two orders reads long texts better depends on the length and on the network; which one costs more at home does not.
# By the argument of section 6 the pairs to change are the *high* digits, those that never finished a turn. So the premise of
# claim C5, that high digits are less trained, is right; but what follows from it is to leave alone what the network knows well.
#
# A full run trains two larger networks on texts half of which repeat themselves, one of them with the factor $\log n/\log N$. It
# compares the NTK forms, and asks whether the text of long ago is used: on texts that repeat a passage of $3N$ characters.

# %% tags=["experiment", "hide-input"]
if not small:
    with_logn = {"logn": TRAINED_AT, "clip": False}
    scaled_model = trained(PositionRule(**with_logn))
    repeated = lab.language.repeated_windows(
        test_text,
        count=len(windows),
        period=3 * TRAINED_AT,
        longest=8 * TRAINED_AT,
        generator=run.generator("repeated windows"),
    )
    names = list(rules(2))
    again = {(name, times): read(model, rules(times)[name], times, repeated) for times in MULTIPLES for name in names}
    grown = {
        (name, times): read(scaled_model, rules(times, **with_logn)[name], times)
        for times in MULTIPLES
        for name in names
    }
    claims.measure(
        "C7d",
        {
            f"fixed over old at {times} times": points("NTK-fixed", times) - points("NTK-old", times)
            for times in MULTIPLES
        },
    )
    claims.measure(
        "C7e",
        {
            f"mixed over fixed at {times} times": points("NTK-mixed", times) - points("NTK-fixed", times)
            for times in MULTIPLES
        },
    )
    claims.measure(
        "C7g",
        {
            f"{name} at 8 times": points(name, 8, grown) - points(name, 8)
            for name in ("NTK-old", "NTK-fixed", "NTK-mixed")
        },
    )
    claims.measure(
        "C9",
        {
            f"{name} at 8 times": points(name, 8, again) - points(name, 8)
            for name in ("NTK-old", "NTK-fixed", "NTK-mixed", "window")
        },
    )
    for title, table in (("repeated text", again), ("trained with log n", grown)):
        print(title)
        for name in names:
            print(
                f"  {name}:", *(f"{times} times {lab.approx(points(name, times, table), 3)} %;" for times in MULTIPLES)
            )
else:
    print("The larger networks are trained in a full run only.")

# %% [markdown]
# ## 14 The claims

# %% tags=["experiment"]
claims.table()

# %% [markdown]
# ## 15 What to keep
#
# Number systems explain where the NTK formulas come from, and a rotation is not a digit: what a change of frequencies does is seen
# from the phases that training covered. Pairs that finished a turn should be left alone and the others slowed down by $k$; a
# scheme that does this, by a cut or a ramp, beats every form of NTK scaling on our small network, where the formulas with a smooth
# dial pay in local resolution. Clipping distances, as ReRoPE does, changes nothing near and meets nothing new far away, and with
# the factor $\log n$ it reads eight times the length almost as well as its own.
#
# ### Exercises
#
# **1. A real head.** LLaMA 2 has heads of width 128, the base 10000, and was trained at 4096. How many of its 64 pairs finished a
# turn? Which pairs would you slow down for texts of 32768?
#
# <details><summary>Solution</summary>
#
# Put the numbers into [D8.2](#D8.2): the place is about 46.03, so 46 pairs finished a turn. The other 18 are the ones to
# interpolate.
#
# </details>

# %% tags=["hide-cell"]
D.numeric(
    "D13.1",
    eq(1 + 64 * log(4096 / (2 * pi)) / log(10000), sp.Float("46.026881")),
    tolerance=1e-6,
    by="the place at which a pair makes just one turn",
)

# %% [markdown]
# **2. A price that fades.** A head has $P$ pairs, $k = 8$. For which $b$ does NTK-mixed halve the step of the fastest pair? What becomes of
# this price in wide heads?
#
# <details><summary>Solution</summary>
#
# By [D8.16](#D8.16) the step is $8^{-(1/P)^b}$. It is one half for $P^{-b} = 1/3$, that is $b = \log 3/\log P$. For a fixed $b > 0$ the
# step tends to 1 as $P$ grows: wide heads pay less. (With $b = 0.625$ and 16 pairs it is 0.69, with 64 pairs 0.86.)
#
# </details>

# %% tags=["hide-cell"]
step = Function("g", positive=True)
display(
    D.define("D13.2", eq(step(y, power), 8 ** (-(y ** (-power)))), by="the step of the fastest of $y$ pairs"),
    D.exact("D13.3", eq(step(1 + excess, log(3) / log(1 + excess)), Rational(1, 2)), by="$b = \\log 3/\\log P$"),
    D.limit("D13.4", tends(step(y, Rational(5, 8)), y, oo, 1), by="the price vanishes in wide heads"),
)

# %% [markdown]
# **3. The right leak.** ReRoPE has the window $w = N/2$. Which leak $\kappa$ lets a text of length $kN$ use all distances up to $N$, and
# none beyond?
#
# <details><summary>Solution</summary>
#
# By [D12](#D12) a text of $w + \kappa h$ is needed with $h = N - w = w$, so $w + \kappa w = 2kw$ and $\kappa = 2k - 1$.
#
# </details>

# %% tags=["hide-cell"]
D.exact(
    "D13.5",
    eq(distance(2 * (1 + excess) * w, 1 + 2 * excess), 2 * w),
    by="$k = 1 + c$, $N = 2w$: with the leak $2k - 1$ the distance $kN$ counts as $N$",
)

# %% [markdown]
# ### Where the idea went since
#
# YaRN ([arXiv 2309.00071](https://arxiv.org/abs/2309.00071)) made the ramp by turns the standard, and Llama 3.1 ships with a ramp from 1 to 4
# turns. LongRoPE ([arXiv 2402.13753](https://arxiv.org/abs/2402.13753)) searches a factor for each pair: mixed radices, found by trial. Liu et al.
# ([arXiv 2310.05209](https://arxiv.org/abs/2310.05209)) study the place of [D8.2](#D8.2) under the name of critical dimension. ReRoPE itself was
# published by the author a week after this post ([9708](https://kexue.fm/archives/9708)); clipping lives on in methods that need no training,
# such as dual chunk attention ([arXiv 2402.17463](https://arxiv.org/abs/2402.17463)).
