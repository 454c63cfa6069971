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
#     archive: 9009
#     title_zh: 为什么Pre Norm的效果不如Post Norm？
#     title_en: Why does Pre Norm perform worse than Post Norm?
#     date: 2022-03-29
#     prerequisites: [deepnet-1000-layers, why-residual]
#     minutes: {quick: 1, full: 30}
# ---

# %% [markdown]
# # How deep is a Pre Norm network?
#
# *Why does Pre Norm perform worse than Post Norm?* · <span lang="zh">为什么Pre Norm的效果不如Post Norm？</span>
#
# > **Post** [<span lang="zh">为什么Pre Norm的效果不如Post Norm？</span>](https://kexue.fm/archives/9009) by Su Jianlin
# > (<span lang="zh">苏剑林</span>), 2022-03-29. He credits the explanation to an answer by Tang Xianghao
# > (<span lang="zh">唐翔昊</span>) on Zhihu. This chapter is an independent work, in words of its own.
#
# **The question.** A Transformer has to put its norms somewhere. *Pre Norm* normalises what goes into a branch, *Post Norm*
# normalises the sum of branch and stream. Pre Norm trains without fuss. Post Norm needs care, but once it trains it usually
# ends better at the same depth. Why should the easier one end worse?
#
# **The answer in one sentence.** The stream of Pre Norm grows, so that late branches hardly change it and neighbours get
# nearly the same input; at the start of training its $M$ sublayers are worth only about $\ln M$ of them in depth, those of
# Post Norm $M/2$.
#
# **Abstract.** The post says that the depth of Pre Norm is watered down: its late layers stand side by side rather than one
# on top of the other. We turn this into numbers. We prove how fast the stream grows and turns, with branches of any
# correlation, count the paths through the network, and find that their lengths in Pre Norm follow the law of the cycles of a
# random permutation. Then we put neighbouring sublayers side by side in networks that were trained on text, and look at what
# is lost.
#
# <p lang="zh"><b>摘要。</b>原文认为Pre Norm的深度“有水分”：靠后的层近似并联，等于加宽而非加深。本章把这一说法量化：推导残差流的增长与转向速度，用生成函数计算路径长度分布，并证明初始化时Pre Norm的M个子层平均只相当于约ln M层，而Post Norm为M/2层。最后在文本上训练小模型，把相邻子层改成并联，测量损失的增加。</p>

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
    Abs,
    Derivative,
    EulerGamma,
    Function,
    IndexedBase,
    O,
    Product,
    Rational,
    Subs,
    Sum,
    Symbol,
    cos,
    factorial,
    gamma,
    harmonic,
    log,
    oo,
    pi,
    sin,
    sqrt,
    symbols,
)
from sympy.functions.combinatorial.numbers import stirling

from kexue_lib.derive import Derivation, Interval, eq, ge, le, mean, tends

# %% [markdown]
# ## 1 Pre Norm is a sum
#
# A network of $N$ layers has $M = 2N$ sublayers, attention and feed-forward in turn. The sublayer $t$ has a branch $F_t$. A
# stream of vectors $x_1, x_2, \dots, x_{M+1}$ runs past all branches. $x_1$ is the embedded input, of size one: every norm
# makes the root mean square of its entries equal to one. In Pre Norm, $x_{t+1} = x_t + F_t(\operatorname{Norm} x_t)$; in Post Norm,
# $x_{t+1} = \operatorname{Norm}(x_t + F_t(x_t))$.
#
# Behind the last sublayer Pre Norm needs one more norm, because its stream may have any size there; Post Norm has it already.
#
# Every numbered line below was checked by the machine that made this page, or is marked as defined, assumed or cited. The
# badge says which, and how; the code that did it is one click away.
#
# Unroll Pre Norm, with four undefined branches and an undefined norm. (Read $x_t$ as one entry of the vector.)

# %% tags=["hide-input"]
norm = Function("N", real=True)
branch = [Function(f"F_{q}", real=True) for q in range(5)]
x = symbols("x_1:6", real=True)
D = Derivation("pre-norm-vs-post-norm")
display(
    *(D.define(f"D1.{q}", eq(x[q], x[q - 1] + branch[q](norm(x[q - 1]))), by=f"sublayer {q}") for q in range(1, 5)),
    D.exact(
        "D1",
        eq(x[4], x[0] + sum(branch[q](norm(x[q - 1])) for q in range(1, 5))),
        by="the output is the input plus *all* branches",
    ),
)

# %% [markdown]
# For any number of sublayers the same is a telescoping sum. Let $f_t$ be the value of the branch $t$, that is, what the sublayer
# adds to the stream.

# %% tags=["hide-input"]
t, k = symbols("t k", integer=True, positive=True)
f, stream = Function("f", real=True), Function("x", real=True)
display(
    D.define("D1.5", eq(f(k), stream(k + 1) - stream(k)), by="in Pre Norm this is $F_k(\\operatorname{Norm} x_k)$"),
    D.exact("D1.6", eq(stream(t + 1), stream(1) + Sum(f(k), (k, 1, t))), by="for every $t$"),
)

# %% [markdown]
# Post Norm has no such formula. Every norm divides everything that came before.
#
# ## 2 How fast the stream grows
#
# The post argues from here: all terms have about the same size, so $x_{t+1} = O(t+1)$, and two neighbours $x_t$ and
# $x_{t+1}$ differ about as much as $t$ and $t + 1$ do. Later the author calls this an intuition only. Let us see how much of
# it can be proved. Let $r_t$ be the root mean square of $x_t$. Every branch is fed by a norm, so suppose that its value has
# size one. What matters then is the angle between branch and stream, the correlation $\rho$.

# %% tags=["hide-input"]
d, i = symbols("d i", integer=True, positive=True)
X, f_vec = IndexedBase("x", shape=(d,), real=True), IndexedBase("f", shape=(d,), real=True)
xx, xf, ff, after = symbols("A B C Q", real=True)
r = Symbol("r", positive=True)
rho = Symbol("rho", real=True)
display(
    D.define("D2.1", eq(xx, mean(X[i] ** 2, i, d)), by="mean square of the stream"),
    D.define("D2.2", eq(xf, mean(X[i] * f_vec[i], i, d)), by="its product with the branch"),
    D.define("D2.3", eq(ff, mean(f_vec[i] ** 2, i, d)), by="mean square of the branch"),
    D.define("D2.4", eq(after, mean((X[i] + f_vec[i]) ** 2, i, d)), by="mean square of the next stream"),
    D.exact("D2.5", eq(after, xx + 2 * xf + ff), by="expand"),
    D.assume("D2.6", eq(xx, r**2), by="the stream has the size $r$"),
    D.assume("D2.7", eq(ff, 1), by="the branch has the size 1"),
    D.assume("D2.8", eq(xf, rho * r), by="their correlation is $\\rho$"),
    D.exact(
        "D2.9",
        eq(after, r**2 + 2 * rho * r + 1),
        made=D["D2.5"].add(D["D2.6"]).add(D["D2.8"].multiply(2)).add(D["D2.7"]),
        opaque=["D2.1", "D2.2", "D2.3", "D2.4"],
        by="so this is $r_{t+1}^2$",
    ),
)

# %% [markdown]
# The size grows by at most one, whatever the correlation: this is the post's bound, and here it is a theorem. And if all
# branches keep a correlation of at least some $\rho \ge 0$ with the stream, it grows by at least $\rho$.

# %% tags=["hide-input"]
corr, below, slack = Symbol("rho", nonnegative=True), Symbol("c", nonnegative=True), Symbol("s", nonnegative=True)
grown = sqrt(r**2 + 2 * rho * r + 1)
display(
    D.exact(
        "D2.10",
        eq((r + 1) ** 2 - (r**2 + 2 * rho * r + 1), 2 * r * (1 - rho)),
        by="not negative for $\\rho \\le 1$: so $r_{t+1} \\le r_t + 1$, and $r_t \\le t$",
    ),
    D.exact(
        "D2.11",
        eq(r**2 + 2 * rho * r + 1 - (r + rho) ** 2, 1 - rho**2),
        by="not negative either: so $r_{t+1} \\ge r_t + \\rho$, and $r_t \\ge 1 + \\rho\\,(t-1)$",
    ),
    D.limit("D2.12", tends(grown - r, r, oo, rho), by="a large stream grows by $\\rho$ for each sublayer"),
)

# %% [markdown]
# So $O(t+1)$ is right as a bound, and right as a rate as soon as the branches keep *some* correlation with the stream, however
# small. At the start of training there is none: the weights of a branch are drawn without knowledge of the stream. Then
# $r_{t+1}^2 = r_t^2 + 1$, and it is the mean square that counts the branches.

# %% tags=["hide-input"]
R = Function("R", positive=True)
display(
    D.define("D2.13", eq(R(t), 1 + Sum(1, (k, 1, t - 1))), by="mean square after $t - 1$ uncorrelated branches"),
    D.exact("D2.14", eq(R(t), t), by="so the *norm* grows like $\\sqrt t$"),
)

# %% [markdown]
# The branch $t + 1$ does not see $x_{t+1}$ but $\operatorname{Norm} x_{t+1}$. So the size is not what matters; the direction
# is. Let $c$ be the cosine of the angle between two vectors $x$ and $y$ of sizes $r$ and $s$. Then their norms differ by
# $\sqrt{2 - 2c}$ (root mean square over the entries):

# %% tags=["hide-input"]
Y = IndexedBase("y", shape=(d,), real=True)
s = Symbol("s", positive=True)
yy, xy, apart, c = symbols("B_y C_y V c", real=True)
display(
    D.define("D2.15", eq(yy, mean(Y[i] ** 2, i, d)), by="mean square of $y$"),
    D.define("D2.16", eq(xy, mean(X[i] * Y[i], i, d)), by="product of $x$ and $y$"),
    D.define("D2.17", eq(apart, mean((X[i] / r - Y[i] / s) ** 2, i, d)), by="how far the norms are apart"),
    D.exact("D2.18", eq(apart, xx / r**2 + yy / s**2 - 2 * xy / (r * s)), by="expand"),
    D.assume("D2.19", eq(yy, s**2), by="the size of $y$"),
    D.assume("D2.20", eq(xy, c * r * s), by="the cosine"),
    D.exact(
        "D2.21",
        eq(apart, 2 - 2 * c),
        made=D["D2.18"]
        .add(D["D2.6"].multiply(1 / r**2))
        .add(D["D2.19"].multiply(1 / s**2))
        .add(D["D2.20"].multiply(-2 / (r * s))),
        opaque=["D2.1", "D2.15", "D2.16", "D2.17"],
        by="with D2.6, D2.19 and D2.20",
    ),
)

# %% [markdown]
# For neighbours, $x_t\cdot x_{t+1} = r^2 + \rho r$ and $x_{t+1}$ has the size of [D2.9](#D2.9). The sine of the angle between
# them has a simple form:

# %% tags=["hide-input"]
cosine = (r**2 + rho * r) / (r * grown)
D.exact(
    "D2",
    eq(1 - cosine**2, (1 - rho**2) / (r**2 + 2 * rho * r + 1)),
    by="$\\sin^2$ of the angle between $x_t$ and $x_{t+1}$",
)

# %% [markdown]
# The sine is $\sqrt{1-\rho^2}/r_{t+1}$. Only the part of a branch that is *not* along the stream turns it, and it turns it the
# less, the larger the stream has grown. Two extremes. Branches along the stream, $\rho = 1$: the stream grows like $t$, the
# relative change is the post's $1/t$, and the direction does not change at all. Uncorrelated branches, $\rho = 0$: the stream
# grows like $\sqrt t$, and two neighbouring branches see inputs that differ by about $1/\sqrt t$:

# %% tags=["hide-input"]
u, T, later = Symbol("u", positive=True), Symbol("t", positive=True), Symbol("k", positive=True)
turn = Function("v", positive=True)
D.domain.update({T: Interval(1, 1000), later: Interval(1, 1000), u: Interval(0.001, 1)})
display(
    D.exact(
        "D2.22",
        eq((r**2 + 2 * rho * r + 1).subs(rho, 1), (r + 1) ** 2),
        by="$\\rho = 1$: $r_{t+1} = r_t + 1$, so $r_t = t$",
    ),
    D.series(
        "D2.23",
        eq(1 / sqrt(1 + u), 1 - u / 2 + 3 * u**2 / 8 + O(u**3)),
        by="$\\rho = 0$: the cosine $\\sqrt{t/(t+1)}$ of neighbours, with $u = 1/t$",
    ),
    D.define(
        "D2.24",
        eq(turn(T, later), sqrt(2 - 2 * sqrt(T / (T + later)))),
        by="$\\rho = 0$: how far the norms of $x_t$ and $x_{t+k}$ are apart",
    ),
    D.limit("D2.25", tends(sqrt(T) * turn(T, 1), T, oo, 1), by="for neighbours it falls like $1/\\sqrt t$"),
)

# %% [markdown]
# In either case neighbouring layers end up with nearly the same input. The post's conclusion stands; only the rate at the
# start of training is $1/\sqrt t$ rather than $1/t$.
#
# **Post Norm** is the case $t = 1$ for ever: every stream comes out of a norm with size one, and meets a branch of size one.
# It turns by 45° in every sublayer.

# %% tags=["hide-input"]
display(
    D.exact("D2.26", eq(turn(1, 1), sqrt(2 - sqrt(2))), by="Post Norm, every sublayer"),
    D.numeric(
        "D2.27",
        le(Abs(sqrt(2 - sqrt(2)) - Rational(76537, 10**5)), Rational(1, 10**5)),
        by="about 0.7654",
        points=1,
    ),
    D.exact(
        "D2.28",
        eq(turn(T, T), sqrt(2 - sqrt(2))),
        by="Pre Norm: for the same turn it takes *as many sublayers as came before*",
    ),
)

# %% [markdown]
# The last line is worth a pause. From $x_t$ to $x_{2t}$ lie $t$ uncorrelated branches of Pre Norm. Together they turn the stream
# by as much as a single sublayer of Post Norm. A Pre Norm network of $M$ sublayers makes such a turn once per doubling,
# $\log_2 M$ times in all. This is a first hint of how deep it is.
#
# ## 3 Two layers or a wide one
#
# Now put two neighbours side by side: give the second branch the input of the first. The two then are *one* sublayer of double
# width. The post's claim is that for large $t$ this makes little difference. What it makes, exactly, is this:

# %% tags=["hide-input"]
D.exact(
    "D3.1",
    eq(
        x[2] - (x[0] + branch[1](norm(x[0])) + branch[2](norm(x[0]))),
        branch[2](norm(x[1])) - branch[2](norm(x[0])),
    ),
    by="two sublayers, less one of double width",
)

# %% [markdown]
# The error is the response of the second branch to a small change $\varepsilon a$ of its input, to first order its Jacobian times the
# change. We write it with two inputs; more change nothing.

# %% tags=["hide-input"]
h1, h2, a1, a2 = symbols("h_1 h_2 a_1 a_2", real=True)
eps, kappa = symbols("varepsilon kappa", positive=True)
F = Function("F", real=True)
error = Function("e", positive=True)
display(
    D.series(
        "D3.2",
        eq(
            F(h1 + eps * a1, h2 + eps * a2),
            F(h1, h2) + eps * (a1 * Derivative(F(h1, h2), h1) + a2 * Derivative(F(h1, h2), h2)) + O(eps**2),
        ),
        by="Taylor's theorem",
    ),
    D.assume(
        "D3.3",
        eq(error(T), kappa * turn(T, 1)),
        by="the Jacobian of a branch changes lengths by a factor $\\kappa$, relative to the size of its value",
    ),
    D.limit(
        "D3",
        tends(sqrt(T) * kappa * turn(T, 1), T, oo, kappa),
        by="so the relative error of merging is about $\\kappa/\\sqrt t$",
        uses=["D3.3"],
    ),
)

# %% [markdown]
# What is $\kappa$? For a feed-forward branch $W_2\operatorname{relu}(W_1 h)$ with random matrices it can be computed. Two inputs
# at an angle $\theta$ give two vectors $\operatorname{relu}(W_1 h)$ whose cosine $k(\theta)$ is a mean over a pair of normal
# variables, an integral over their angle $\varphi$ (a matrix $W_2$ of random entries keeps angles):

# %% tags=["hide-input"]
theta, phi = Symbol("theta", positive=True), Symbol("varphi", real=True)
kernel = Function("k", real=True)
D.domain.update({theta: Interval(0.01, 3.1)})
display(
    D.define("D3.4", eq(kernel(theta), (sin(theta) + (pi - theta) * cos(theta)) / pi), by="cosine of two outputs"),
    D.exact(
        "D3.5",
        eq(2 / pi * sp.Integral(cos(phi) * cos(phi - theta), (phi, theta - pi / 2, pi / 2)), kernel(theta)),
        by="where both inputs of the relu are positive",
    ),
    D.series(
        "D3.6",
        eq(2 - 2 * kernel(theta), theta**2 - 2 * theta**3 / (3 * pi) + O(theta**4)),
        by="two inputs an angle $\\theta$ apart give outputs $\\theta$ apart, to first order",
    ),
    D.limit(
        "D3.7",
        tends(sqrt((2 - 2 * kernel(theta)) / (2 - 2 * cos(theta))), theta, 0, 1),
        by="so $\\kappa = 1$ for such a branch",
    ),
)

# %% [markdown]
# With $\kappa = 1$ the error of merging is simply the distance of the two inputs: about $1/\sqrt t$ for Pre Norm, and 0.77, hardly
# less than the whole branch, in every sublayer of Post Norm.
#
# ## 4 Counting paths
#
# "Watered down" can be made a number. Multiply out a stack of branches: each branch is either taken or passed by, so the output
# is a sum over $2^M$ paths (Veit et al.). A path that takes many branches is deep; one that takes few is shallow. How long are
# the paths that matter?
#
# Let branch and stream be uncorrelated, and let $w_t$ be the mean square of the branch over that of the stream it is added to.
# With random signs the mixed terms of a square cancel, and the mean squares of the paths add up. To count, give every branch a
# mark $q$. For two branches of random sign, here as four equally likely cases:

# %% tags=["hide-input"]
q, w1, w2 = symbols("q w_1 w_2", positive=True)
cases = [(1 + a * sqrt(q * w1)) * (1 + b * sqrt(q * w2)) for a in (1, -1) for b in (1, -1)]
D.exact(
    "D4.1",
    eq(sum(case**2 for case in cases) / 4, 1 + q * (w1 + w2) + q**2 * w1 * w2),
    by="the power of $q$ is the length: one path of length 0, two of length 1, one of length 2",
)

# %% [markdown]
# This is the product $(1 + q w_1)(1 + q w_2)$. In general $\prod_t (1 + q\,w_t)$ collects the mean squares of all paths by their
# length, and the mean length is its logarithmic derivative at $q = 1$. Every branch contributes its share $w_t/(1+w_t)$.

# %% tags=["hide-input"]
M = Symbol("M", integer=True, positive=True)
w = IndexedBase("w", shape=(M,), positive=True)
lengths = Function("P", positive=True)
display(
    D.define("D4.2", eq(lengths(q), Product(1 + q * w[t], (t, 1, M))), by="mean squares of the paths, by length"),
    D.exact(
        "D4.3",
        eq(log(lengths(q)), Sum(log(1 + q * w[t]), (t, 1, M))),
        dims={M: (2, 3)},
        by="its logarithm is a sum",
    ),
    D.exact(
        "D4.4",
        eq(Subs(Derivative(Sum(log(1 + q * w[t]), (t, 1, M)), q), q, 1), Sum(w[t] / (1 + w[t]), (t, 1, M))),
        by="the mean length, for every $M$",
    ),
)

# %% [markdown]
# **Pre Norm.** The stream has the mean square $t$ ([D2.14](#D2.14)) and the branch 1, so $w_t = 1/t$.

# %% tags=["hide-input"]
L = Symbol("M", positive=True)  # the number of sublayers as a real variable, for limits
shallow = Function(r"\ell_{\mathrm{pre}}", positive=True)
D.domain.update({L: Interval(2, 10**6)})
display(
    D.exact("D4.5", eq(Product(1 + 1 / t, (t, 1, M)), M + 1), by="all paths together: the mean square of the output"),
    D.exact("D4.6", eq((1 / t) / (1 + 1 / t), 1 / (t + 1)), by="the share of the branch $t$"),
    D.define("D4.7", eq(shallow(L), harmonic(L + 1) - 1), by="a name for the next line, for real $M$"),
    D.exact("D4", eq(Sum(1 / k, (k, 2, M + 1)), shallow(M)), by="the mean length, with $k = t + 1$"),
    D.limit("D4.8", tends(harmonic(L) - log(L), L, oo, EulerGamma), by="so it is about $\\ln M + \\gamma - 1$"),
)

# %% [markdown]
# The whole law of the lengths has a name. $\prod_{t}(t + q)$ is the generating function of the Stirling numbers of the first kind,
# which count permutations by their cycles. So the path length of Pre Norm is distributed like *the number of cycles of a random
# permutation of $M + 1$ things, less one*. Here is the product in closed form, and for five branches with the Stirling numbers
# of 6:

# %% tags=["hide-input"]
display(
    D.exact(
        "D4.9",
        eq(Product(1 + q / t, (t, 1, M)), gamma(M + 1 + q) / (gamma(1 + q) * factorial(M))),
        by="a rising factorial",
    ),
    D.exact(
        "D4.10",
        eq(
            Product(1 + q / t, (t, 1, 5)),
            sum(stirling(6, size + 1, kind=1) * q**size for size in range(6)) / factorial(5),
        ),
        by="120, 274, 225, 85, 15, 1: permutations of 6 with 1, 2, …, 6 cycles",
    ),
)

# %% [markdown]
# **Post Norm.** Branch and stream meet with size one each: $w_t = 1$. All $2^M$ paths weigh the same, and the lengths are those of
# heads in $M$ throws of a coin. This is also why, as the post says, each Post Norm weakens the direct path: its share is $2^{-M}$,
# against $1/(M+1)$ in Pre Norm.

# %% tags=["hide-input"]
even, weight = Function(r"\ell", positive=True), Symbol("w", positive=True)
display(
    D.define("D4.11", eq(even(L, weight), L * weight / (1 + weight)), by="mean length if all $M$ weights are $w$"),
    D.exact("D4.12", eq(even(L, 1), L / 2), by="Post Norm: half of all sublayers"),
    D.limit(
        "D4.13", tends((L + 1) / sp.Integer(2) ** L, L, oo, 0), by="the direct path of Post Norm over that of Pre Norm"
    ),
)

# %% [markdown]
# **DeepNorm** gives the stream a weight $\alpha$ and the branches a size $\lambda^2$, so $w = (\lambda^2/\alpha)^2$. The constants
# are those of the chapter on DeepNet. At the start it is shallower than either of the others, less than one branch deep. It has
# to gain its depth by training.

# %% tags=["hide-input"]
quarter = Rational(1, 4)
share = Function("w", positive=True)
alpha, lam = symbols("alpha lambda", positive=True)
display(
    D.define("D4.14", eq(share(alpha, lam), (lam**2 / alpha) ** 2), by="branch over stream, mean squares"),
    D.exact("D4.15", eq(share(L**quarter, L**-quarter), L ** Rational(-3, 2)), by="the constants for SGD"),
    D.exact(
        "D4.16",
        eq(share(L**quarter, (4 * L) ** -quarter), L ** Rational(-3, 2) / 4),
        by="the paper's, $\\beta = (8N)^{-1/4}$: a quarter of that",
    ),
    D.exact("D4.17", eq(share(1, 1 / sqrt(L)), L**-2), by="the constants for LAMB"),
    D.limit(
        "D4.18",
        tends(sqrt(L) * even(L, share(L**quarter, L**-quarter)), L, oo, 1),
        by="SGD: mean length about $M^{-1/2}$",
    ),
    D.limit("D4.19", tends(L * even(L, share(1, 1 / sqrt(L))), L, oo, 1), by="LAMB: about $M^{-1}$"),
)

# %% [markdown]
# For 48 layers, 96 sublayers, the mean length is 48 in Post Norm, and

# %% tags=["hide-input"]
display(
    D.numeric(
        "D4.20",
        le(Abs(shallow(96) - Rational(41571, 10**4)), Rational(3, 10**5)),
        by="4.16 in Pre Norm",
        points=1,
    ),
    D.numeric(
        "D4.21",
        le(
            Abs(even(96, share(sp.Integer(96) ** quarter, sp.Integer(96) ** -quarter)) - Rational(10195, 10**5)),
            Rational(1, 10**5),
        ),
        by="0.10 in DeepNorm with the constants for SGD",
        points=1,
    ),
)

# %% [markdown]
# A branch of size one was an assumption. In our networks the matrices are Xavier's, of the variance $\frac{2}{n + m}$ for $n$ inputs and
# $m$ outputs. An attention branch whose tokens agree keeps the size one. The feed-forward branch goes from $d$ numbers to $2d$
# and back, and its ReLU halves the mean square. It comes out smaller, and a Post Norm network of both kinds is a little less deep than
# $M/2$:

# %% tags=["hide-input"]
breadth, inputs_of, outputs_of = Symbol("d", positive=True), Symbol("n", positive=True), Symbol("m", positive=True)
through = Function("g", positive=True)
display(
    D.define(
        "D4.22",
        eq(through(inputs_of, outputs_of), 2 * inputs_of / (inputs_of + outputs_of)),
        by="mean square behind a Xavier matrix over that before it",
    ),
    D.exact(
        "D4.23",
        eq(through(breadth, 2 * breadth) * Rational(1, 2) * through(2 * breadth, breadth), Rational(4, 9)),
        by="mean square of a feed-forward branch, for every width",
    ),
    D.exact(
        "D4.24",
        eq((even(L / 2, 1) + even(L / 2, Rational(4, 9))) / L, Rational(21, 52)),
        by="half of the branches of each kind: mean length over $M$, 0.40 instead of 0.50",
    ),
)

# %% [markdown]
# In Pre Norm branch and stream shrink alike, and the mean length stays what it was. All this is about random, independent
# branches, that is, about the *start* of training. What training makes of it has to be
# measured.
#
# ## 5 What the gradient says
#
# DeepNet's paper observes that in Pre Norm the gradients of the lower layers are larger than those of the upper ones, and the
# post reads this as the same statement. With the law above the two can be compared exactly. Let $G_t$ be the mean square of the
# gradient by $x_t$. The final norm divides by the size of the stream. On the way back a branch adds its own share to the
# gradient of the stream, divided by the norm in front of it: a factor $1 + 1/R_t$. This is step D9 of the chapter on DeepNet,
# in our numbering.

# %% tags=["hide-input"]
G, l = Function("G", positive=True), Symbol("l", integer=True, positive=True)  # noqa: E741
H, rest = Symbol("H", integer=True, positive=True), Symbol("m", integer=True, nonnegative=True)
display(
    D.assume(
        "D5.1",
        eq(G(l), Product(1 + 1 / t, (t, l, H - 1)) / H),
        by="one factor for each branch from $l$ on, and the final norm of $x_H$, the end of the stream: $H = M + 1$",
    ),
    D.exact("D5.2", eq(Product(1 + 1 / t, (t, l, H - 1)), H / l), put={H: l + rest}, by="the product telescopes"),
    D.exact(
        "D5.3",
        eq(G(l), 1 / l),
        made=D["D5.1"].add(D["D5.2"].multiply(1 / H)),
        put={H: l + rest},
        by="the depth has gone",
    ),
)

# %% [markdown]
# The branch $l$ adds to $x_{l+1}$, so its value has the gradient of $x_{l+1}$, of mean square $1/(l+1)$. Compare
# [D4.6](#D4.6): this is exactly the share of the paths that go through the branch. And the sum over all branches is exactly the
# mean length of a path, [D4](#D4).

# %% tags=["hide-input"]
display(
    D.exact(
        "D5.4",
        eq(G(l + 1), (1 / l) / (1 + 1 / l)),
        made=D["D5.3"].subs(l, l + 1),
        by="squared gradient of a branch = its share of the paths",
    ),
    D.exact(
        "D5",
        eq(Sum(G(k), (k, 2, H)), harmonic(H) - 1),
        made=D["D5.3"].subs(l, k).sum(k, 2, H),
        by="all squared gradients together = the mean length of a path",
    ),
)

# %% [markdown]
# So the post's reading (claim C5) is right in a precise sense: at the start of training "the gradient is larger at the bottom" and "the upper
# layers add little depth" are one law, $w_t = 1/t$. The gradients of a branch's parameters fall like $l^{-1/2}$. In Post Norm every
# share is one half, and the same argument predicts level gradients. Measured ones decay towards the bottom instead, as Figure 2
# and the chapter on DeepNet show. So in Post Norm the assumption of independent branches fails somewhere on the way back.

# %% [markdown]
# ## 6 What will be tested, and by which rule
#
# The post makes seven claims; some fall into parts with different fates, and two sharper statements of our own stand beside
# them. Each gets its rule here, before anything is measured. A claim *holds* when every condition of its rule is met, *partly*
# when some are, and *fails* when none is. A claim that this run cannot test stays *open*. The rules were fixed on pilot runs with
# other seeds than those of this page.

# %% tags=["experiment", "hide-input"]
import math

import numpy as np
import torch
import torch.nn.functional as F

from kexue_lib import depth as deep
from kexue_lib import lab
from kexue_lib.lab import Criterion, settled

run = lab.Run(scale=scale, seed=seed, device=device)
claims = lab.Claims("pre-norm-vs-post-norm")
EXPONENT = 0.1  # how far a fitted exponent may be from the derived one


def near(name, value, width=EXPONENT):
    """The rule that a measured number is near a value."""
    return lambda measured: abs(measured[name] - value) <= width


claims.register(
    "C1",
    r"Pre Norm unrolls to a sum: $x_{t+1} = x_1 + \sum_{i\le t} F_i(\operatorname{Norm} x_i)$",
    kind="exact",
    how="proved with undefined branches, and for every number of sublayers; compared with random networks",
    criteria=[
        settled(D["D1"], "four sublayers"),
        settled(D["D1.6"], "any number"),
        Criterion("networks", "relative error of the sum below $10^{-5}$", lambda m: m["relative error"] < 1e-5),
    ],
)
claims.register(
    "C2a",
    "the terms have about the same size, so $x_{t+1} = O(t+1)$, and neighbours of a large $t$ are nearly alike",
    kind="heuristic",
    how="a bound for any correlation; random networks",
    criteria=[
        settled(D["D2.10"], "$r_{t+1} \\le r_t + 1$"),
        Criterion("terms", "size of the branches against $t$: exponent within 0.1 of 0", near("branches", 0)),
        Criterion("alike", "difference of neighbouring inputs: exponent below $-0.4$", lambda m: m["inputs"] < -0.4),
    ],
    evidence=["D2.9", "D2"],
)
claims.register(
    "C2b",
    "neighbours differ like $t$ and $t+1$ do, by $1/t$ of their size (meant as an intuition)",
    kind="heuristic",
    how="solved for aligned branches; random networks",
    criteria=[
        settled(D["D2.22"], "branches along the stream"),
        Criterion("start", "random networks: exponent of the relative change within 0.1 of $-1$", near("change", -1)),
    ],
    evidence=["D2.11", "D2.12"],
)
claims.register(
    "C2c",
    r"sharper: at the start the stream grows like $\sqrt t$, and neighbouring inputs differ by $1/\sqrt t$; in Post Norm the "
    "difference does not fall",
    kind="asymptotic",
    how="derived for uncorrelated branches; random networks",
    criteria=[
        settled(D["D2.14"], "size"),
        settled(D["D2.25"], "neighbours"),
        Criterion("size", "size of the stream: exponent within 0.1 of 1/2", near("size", 0.5)),
        Criterion("change", "relative change: exponent within 0.1 of $-1/2$", near("change", -0.5)),
        Criterion("inputs", "difference of neighbouring inputs: exponent within 0.1 of $-1/2$", near("inputs", -0.5)),
        Criterion("Post Norm", "the same in Post Norm: exponent within 0.1 of 0", near("inputs, Post", 0)),
    ],
    evidence=["D2.21", "D2.26", "D2.28"],
)
claims.register(
    "C3a",
    "two neighbouring sublayers of Pre Norm are nearly one of double width, for large $t$",
    kind="approximation",
    how=r"error $\kappa/\sqrt t$ to first order; random networks",
    criteria=[
        settled(D["D3"], "rate", assuming=["D3.3"]),
        Criterion("rate", "merge error of Pre Norm: exponent within 0.1 of $-1/2$", near("Pre", -0.5)),
        Criterion(
            "late",
            "last quarter: error in Pre Norm at most a quarter of that in Post Norm",
            lambda m: m["last quarter, Pre"] <= m["last quarter, Post"] / 4,
        ),
    ],
    evidence=["D3.1", "D3.2", "D3.7"],
)
claims.register(
    "C3b",
    "the same after training",
    kind="approximation",
    how="characters of a text; increase of the test loss when sublayers $t$, $t+1$ run side by side, mean over the pairs of a half",
    criteria=[
        Criterion(
            "trained", "both at least 0.3 nats below single characters", lambda m: max(m["Pre"], m["Post"]) <= -0.3
        ),
        Criterion(
            "upper half",
            "increase in Pre Norm at most half of that in its lower half",
            lambda m: m["Pre, upper"] <= m["Pre, lower"] / 2,
        ),
        Criterion(
            "against Post Norm",
            "increase in the upper half of Post Norm at least 4 times that of Pre Norm",
            lambda m: m["Post, upper"] >= 4 * m["Pre, upper"],
        ),
    ],
    evidence=["D3"],
)
claims.register(
    "C4a",
    r"sharper: at the start Pre Norm of $M$ sublayers is $H_{M+1} - 1 \sim \ln M$ deep, Post Norm $M/2$",
    kind="asymptotic",
    how="generating function of the path lengths; the same with the measured weights of random networks",
    criteria=[
        settled(D["D4"], "Pre Norm"),
        settled(D["D4.8"], "its growth"),
        settled(D["D4.12"], "Post Norm"),
        Criterion(
            "Pre", "measured weights: within 25 % of $H_{M+1} - 1$", lambda m: abs(m["Pre over theory"] - 1) <= 0.25
        ),
        Criterion("Post", "measured weights: within 25 % of $M/2$", lambda m: abs(m["Post over theory"] - 1) <= 0.25),
    ],
    evidence=["D4.1", "D4.4", "D4.9", "D4.18"],
)
claims.register(
    "C4b",
    "stacking Pre Norm layers widens more than it deepens; Post Norm layers count in full (after training)",
    kind="heuristic",
    how="trained networks whose upper layers run in pairs, as half as many layers of double width; mean path length with their weights",
    criteria=[
        Criterion(
            "halved",
            "loss when the upper half of the layers is halved: increase in Post Norm at least 4 times that in Pre Norm",
            lambda m: m["Post, halved"] >= 4 * m["Pre, halved"],
        ),
        Criterion(
            "depth",
            "mean path length of Pre Norm at most half of that of Post Norm",
            lambda m: m["Pre, depth"] <= m["Post, depth"] / 2,
        ),
    ],
    evidence=["D4"],
)
claims.register(
    "C5",
    "that gradients of Pre Norm are larger at the bottom than at the top says the same",
    kind="heuristic",
    how="the squared gradient of a branch is its share of the paths; gradients of random networks",
    criteria=[
        settled(D["D5.4"], "one law", assuming=["D5.1"]),
        settled(D["D5"], "the sum", assuming=["D5.1"]),
        *(
            Criterion(
                name,
                f"gradient of {words} in Pre Norm against the layer: exponent within 0.1 of $-1/2$",
                near(name, -0.5),
            )
            for name, words in (("V", "$V$"), ("O", "$O$"), ("W1", "$W_1$"), ("W2", "$W_2$"))
        ),
        Criterion(
            "Post Norm", "first over last eight layers: below 1 in Post Norm", lambda m: m["first to last, Post"] < 1
        ),
        Criterion(
            "DeepNorm", "largest over smallest layer at most 1.3 in DeepNorm", lambda m: m["spread, DeepNorm"] <= 1.3
        ),
    ],
    evidence=["D5.3"],
)
claims.register(
    "C6",
    "after good tuning Post Norm ends better than Pre Norm at the same depth",
    kind="empirical",
    how="test loss of 8 and 24 layers, each norm at the best of three learning rates, three networks each",
    criteria=[
        Criterion(
            f"{layers} layers",
            "Post Norm better by more than two standard errors of the difference",
            lambda m, layers=layers: m[f"gain, {layers}"] > 2 * m[f"error, {layers}"],
        )
        for layers in (8, 24)
    ],
    open_because=None
    if run.scale == "full" and shrink == 1
    else "needs long training at several learning rates: only in a full run",
)
claims.register(
    "C7",
    "Pre Norm trains more easily: it needs no warm-up",
    kind="empirical",
    how="the same training with and without warm-up; loss of the last 20 steps against the entropy of single characters",
    criteria=[
        Criterion("Pre, none", "Pre Norm without warm-up: 0.3 nats below or more", lambda m: m["Pre, none"] <= -0.3),
        Criterion(
            "gap",
            "without warm-up Post Norm is at least 0.2 nats worse",
            lambda m: m["Post, none"] >= m["Pre, none"] + 0.2,
        ),
        Criterion(
            "Post, warm-up", "Post Norm with warm-up: 0.3 nats below or more", lambda m: m["Post, warm-up"] <= -0.3
        ),
    ],
)
claims.table()

# %% [markdown]
# ## 7 Experiment A: at the start of training
#
# The networks are those of the chapter on DeepNet: narrow Transformers with nothing beside attention and a feed-forward part with
# ReLU, no biases, no weights in the norms. They read 8 random tokens. First we look at them before any training, all members of
# a kind at once. For every sublayer we note the size of the stream, how far the inputs of neighbouring branches are apart, and
# how much the value of a branch changes if it gets the input of the branch before it.

# %% tags=["experiment", "hide-input"]
KINDS = {"Pre": "pre", "Post": "post", "DeepNorm": "deepnorm"}
layers = max(32, run.pick(quick=128, full=256) // shrink)
members = max(3, run.pick(quick=12, full=24) // shrink)
sublayers = 2 * layers
PARTS = {"V": "v_proj", "O": "out_proj", "W1": "ffn_up", "W2": "ffn_down"}


def at_the_start(kind):
    """Stream, branches, merge errors and gradients of random networks, geometric means over the networks."""
    draw = run.generator(f"start {kind}")
    model = lab.stacks.DeepStack(
        16, n_layers=layers, dim=64, norm=KINDS[kind], members=members, max_len=8, generator=draw
    ).to(run.device)
    tokens, labels = (torch.randint(16, (members, 4, 8), generator=draw).to(run.device) for _ in range(2))
    branches = model.branches(8)
    with torch.no_grad():
        stream = deep.grouped_stack(model.embed(tokens), branches, alpha=model.alpha, mode=model.mode)
        inputs = F.layer_norm(stream, stream.shape[-1:]) if model.mode == "pre" else stream
        values = torch.stack([branch(h) for branch, h in zip(branches, inputs, strict=False)])
        found = deep.stream_statistics(stream, keep=1)
        errors = deep.merge_errors(stream, branches, mode=model.mode, keep=1, axis=1)
        branch_square = values.double().square().mean((-2, -1))
        weights = branch_square / (model.alpha**2 * stream[:-1].double().square().mean((-2, -1)))
    loss = F.cross_entropy(model.logits(model(tokens)).flatten(0, -2), labels.flatten()) * members
    matrices = [getattr(layer, part) for layer in model.layers for part in PARTS.values()]
    norms = torch.stack([g.norm(dim=(-2, -1)) for g in torch.autograd.grad(loss, matrices)]).view(
        layers, len(PARTS), -1
    )

    def middle(x):
        return x.double().log().mean(-1).exp().cpu().numpy()

    rest = (stream[-1] - stream[0] - values.sum(0)).norm() / stream[-1].norm()
    return {
        "size": middle(found.mean_square) ** 0.5,
        "change": middle(found.relative_change),
        "inputs": middle(found.input_change),
        "branches": middle(branch_square) ** 0.5,
        "errors": middle(errors),
        "weights": weights.cpu(),
        "gradients": middle(norms),
        "rest": float(rest),
    }


first = {kind: at_the_start(kind) for kind in lab.progress(KINDS, desc="random networks")}


def exponent(values, low=16):
    """The exponent of t in a power law, from t = 17 on."""
    place = np.arange(1, len(values) + 1)
    return lab.slope(np.log(place[low:]), np.log(values[low:]))


fits = {
    (kind, what): exponent(first[kind][what])
    for kind in ("Pre", "Post")
    for what in ("size", "change", "inputs", "branches", "errors")
}
claims.measure("C1", {"relative error": first["Pre"]["rest"]})
claims.measure("C2a", {what: fits["Pre", what] for what in ("branches", "inputs")})
claims.measure("C2b", {"change": fits["Pre", "change"]})
claims.measure(
    "C2c",
    {**{what: fits["Pre", what] for what in ("size", "change", "inputs")}, "inputs, Post": fits["Post", "inputs"]},
)
quarter_of = -(sublayers // 4)
claims.measure(
    "C3a",
    {
        "Pre": fits["Pre", "errors"],
        **{f"last quarter, {kind}": first[kind]["errors"][quarter_of:].mean() for kind in ("Pre", "Post")},
    },
)

# %% tags=["experiment", "hide-input"]
COLOUR = dict(zip(KINDS, lab.style.COLOURS, strict=False))
place = np.arange(1, sublayers + 1)
grey = {"color": lab.style.MUTED, "marker": "", "linewidth": 1.5}


def level_out(values):
    """Geometric means over neighbours: attention and feed-forward branches alternate."""
    return np.sqrt(values[1:] * values[:-1])


with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.2))
    for kind in ("Pre", "Post"):
        colour = {"color": COLOUR[kind], "marker": ""}
        inputs, errors = (level_out(first[kind][what]) for what in ("inputs", "errors"))
        left.plot(place, first[kind]["size"][:-1], label=f"{kind} Norm", **colour)
        right.plot(place[: len(inputs)] + 0.5, inputs, linestyle="-", label=f"{kind} Norm: inputs", **colour)
        right.plot(place[: len(errors)] + 1.5, errors, linestyle=":", label=f"{kind} Norm: values", **colour)
    left.plot(place, place**0.5, linestyle="--", label=r"$\sqrt{t}$ (D2.14)", **grey)
    left.plot(place, place, linestyle="-.", label="$t$, the bound (D2.10)", **grey)
    right.plot(
        place, np.sqrt(2 - 2 * np.sqrt(place / (place + 1))), linestyle="--", label=r"$1/\sqrt{t}$ (D2.25)", **grey
    )
    right.axhline(math.sqrt(2 - math.sqrt(2)), linestyle="-.", label="45° (D2.26)", **grey)
    left.set(xscale="log", yscale="log", xlabel="sublayer $t$", ylabel="RMS of $x_t$", ylim=(0.1, 40))
    right.set(xscale="log", yscale="log", xlabel="sublayer $t$", ylabel="relative difference", ylim=(0.02, 1.5))
    left.legend(loc="lower right", fontsize=8)
    right.legend(loc="lower left", fontsize=8)
    lab.style.title(left, "Size of the stream")
    lab.style.title(right, "Neighbouring branches")
lab.figure(
    fig,
    name="stream",
    title="The stream of random networks, sublayer by sublayer",
    caption=(
        f"**Figure 1.** Random networks of {layers} layers before training. Left: size of the stream. Right: how far the inputs of "
        "neighbouring branches are apart (solid), and by how much the value of a branch changes if it gets the input of its "
        "predecessor (dotted), geometric means of neighbours. In Pre Norm both fall about like $1/\\sqrt t$; in Post Norm they do not fall."
    ),
    alt=(
        "Left: the Pre Norm stream grows along the square root of t, Post Norm stays at one. Right: differences of neighbouring "
        "branches fall with t in Pre Norm and stay near 0.7 in Post Norm."
    ),
    data={
        "t": place,
        **{f"{kind} {what}": first[kind][what] for kind in ("Pre", "Post") for what in ("size", "inputs", "errors")},
    },
)
for (kind, what), fit in fits.items():
    if kind == "Pre" or what in ("inputs", "errors"):
        print(f"{kind} Norm, exponent of the {what}:", lab.approx(fit.slope, 2))

# %% [markdown]
# The merge error follows the distance of the inputs closely, so $\kappa$ is about one, as [D3.7](#D3.7) says. The first few
# sublayers lie lower: an attention layer over 8 random tokens averages, and its value is smaller than one.
#
# ### Paths and gradients
#
# From the measured weights $w_t$ we compute the law of the path lengths, with no further assumption than that the terms are
# uncorrelated. Beside it, where the gradients are.

# %% tags=["experiment", "hide-input"]
theory = {"Pre": deep.branch_weights(sublayers), "Post": deep.branch_weights(sublayers, "post")}
law = {kind: deep.path_lengths(w) for kind, w in theory.items()}
own_law = {kind: deep.path_lengths(first[kind]["weights"].mean(1)) for kind in theory}
lengths_of = {kind: float(deep.effective_depth(first[kind]["weights"].T).mean()) for kind in KINDS}
claims.measure(
    "C4a", {f"{kind} over theory": lengths_of[kind] / float(deep.effective_depth(w)) for kind, w in theory.items()}
)
level = np.arange(1, layers + 1)
by_layer = {kind: np.exp(np.log(first[kind]["gradients"]).mean(1)) for kind in KINDS}
with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.2))
    for kind in theory:
        size = np.arange(1, sublayers + 1)
        left.fill_between(
            size, own_law[kind][1:], step="mid", color=COLOUR[kind], alpha=0.4, label=f"{kind} Norm, measured"
        )
        left.plot(size, law[kind][1:], color=COLOUR[kind], marker="", label=f"{kind} Norm, derived")
    for kind in KINDS:
        name = kind if kind == "DeepNorm" else f"{kind} Norm"
        right.plot(level, by_layer[kind], color=COLOUR[kind], marker="", label=name)
    right.plot(level, by_layer["Pre"][7] * (level / 8) ** -0.5, linestyle="--", label="$l^{-1/2}$ (D5.3)", **grey)
    left.set(xscale="log", xlabel="length of the path", ylabel="share of the output's mean square", ylim=(0, 0.25))
    right.set(xscale="log", yscale="log", xlabel="layer $l$", ylabel="gradient of a matrix", ylim=(6e-3, None))
    left.legend(loc="upper right", fontsize=8)
    right.legend(loc="lower left", fontsize=8)
    lab.style.title(left, f"Paths through {sublayers} sublayers")
    lab.style.title(right, f"Gradients in {layers} layers")
lab.figure(
    fig,
    name="paths",
    title="How long the paths are, and where the gradients are",
    caption=(
        f"**Figure 2.** Random networks of {layers} layers. Left: how much of the output comes over paths of each length, from "
        "the derivation (lines) and from the measured sizes of branches and stream (areas); the shares of a kind add up to one. Right: norm of the gradient of a matrix "
        "(geometric mean over $V, O, W_1, W_2$), layer by layer."
    ),
    alt=(
        "Left: path lengths of Pre Norm pile up at a few sublayers, those of Post Norm around half of all. Right: gradients fall "
        "with the layer in Pre Norm, rise in Post Norm, and are level in DeepNorm."
    ),
    data={
        **{f"law {kind}": value for kind, value in law.items()},
        **{f"measured law {kind}": value for kind, value in own_law.items()},
        **{f"gradient {kind}": value for kind, value in by_layer.items()},
    },
)
claims.measure(
    "C5",
    {
        **{
            name: lab.slope(np.log(level[7:]), np.log(first["Pre"]["gradients"][7:, column]))
            for column, name in enumerate(PARTS)
        },
        "first to last, Post": np.exp(np.log(by_layer["Post"][:8]).mean() - np.log(by_layer["Post"][-8:]).mean()),
        "spread, DeepNorm": by_layer["DeepNorm"].max() / by_layer["DeepNorm"].min(),
    },
)
for kind, value in lengths_of.items():
    print(f"{kind}: mean path length with measured weights {lab.approx(value)} of {sublayers} sublayers")

# %% [markdown]
# Post Norm falls short of $M/2$ by about as much as [D4.24](#D4.24) says. DeepNorm does not even fill the first place: almost all of
# its output comes over the path of length zero.

# %% [markdown]
# ## 8 Experiment B: side by side after training
#
# All this was about random weights. Training could change it: branches may learn to work with each other, each on what the one
# before has written. So we train small causal Transformers on the characters of a text, Adam with warm-up, and *then* put
# sublayers side by side and look at the test loss. Nothing is trained again: the question is whether the trained network makes use of
# the order of its sublayers.
#
# A network that has learned nothing would pass this test for a bad reason. So both kinds have to be well below the entropy of
# single characters first.

# %% tags=["experiment", "hide-input"]
text = lab.data.kjv().lower()
vocabulary = lab.text.Vocabulary(text, size=95)
train_text, test_text = lab.text.split(vocabulary.encode(text))
floor = lab.text.unigram_entropy(train_text)
COPIES = 3  # networks of each kind, trained at once
window = max(32, run.pick(quick=32, full=256) // shrink)
width = max(32, run.pick(quick=32, full=256) // shrink)
STEPS, WARM = max(60, run.pick(quick=300, full=3000) // shrink), max(20, run.pick(quick=100, full=600) // shrink)
depths = run.pick(quick=(8,), full=(8, 24))
rates = run.pick(quick=(3e-3,), full=(3e-4, 1e-3, 3e-3))
if shrink > 1:
    depths, rates = depths[:1], rates[:2]
test_batch = next(
    lab.text.causal_batches(
        test_text, batch=max(8, run.pick(quick=64, full=128) // shrink), n=window, generator=run.generator("test")
    )
).to(run.device)


def own_losses(model, hidden, targets):
    """The loss of each network, from the end of the stream."""
    scores = model.logits(model.finish(hidden)).flatten(1, -2).float()
    return F.cross_entropy(scores.transpose(1, 2), targets.reshape(COPIES, -1), reduction="none").mean(1)


def joint_loss(model, batch):
    """The sum of the losses: every network has its own part of the batch."""
    hidden = model(batch.inputs.unflatten(0, (COPIES, -1)))
    scores = model.logits(hidden).flatten(0, -2).float()
    return COPIES * F.cross_entropy(scores, batch.targets.flatten())


def trained(kind, count, rate, *, steps, warmup, schedule):
    """Three networks of a kind, and their mean loss at each step."""
    model = lab.stacks.DeepStack(
        len(vocabulary),
        n_layers=count,
        dim=width,
        heads=run.pick(quick=4, full=8),
        norm=KINDS[kind],
        causal=True,
        max_len=window,
        members=COPIES,
        generator=run.generator(f"weights {kind}", count),
    ).to(run.device)
    batches = lab.text.causal_batches(
        train_text,
        batch=COPIES * max(2, run.pick(quick=8, full=24) // shrink),
        n=window,
        generator=run.generator("batches", count),
    )
    found = lab.training.train(
        model,
        batches,
        steps=steps,
        lr=rate,
        warmup=warmup,
        schedule=schedule,
        loss=joint_loss,
        autocast=run.autocast,
        optimizer=lambda m, lr: torch.optim.Adam(m.parameters(), lr=lr, fused=True),
        desc=f"{kind} Norm, {count} layers",
    )
    return model.eval(), found / COPIES


class Tested:
    """A trained network and its test loss, whole and with sublayers in groups."""

    def __init__(self, model):
        self.model, self.sublayers = model, 2 * len(model.layers)
        self.tokens = test_batch.inputs.expand(COPIES, -1, -1)
        self.targets = test_batch.targets.expand(COPIES, -1, -1)
        self.branches = model.branches(window)
        self.whole = self.loss(None)

    @torch.no_grad()
    def loss(self, groups):
        """Losses of the networks with the sublayers in groups, in nats."""
        start = self.model.embed(self.tokens)
        stream = deep.grouped_stack(start, self.branches, groups, alpha=self.model.alpha, mode=self.model.mode)
        return own_losses(self.model, stream[-1], self.targets).double().cpu()

    @torch.no_grad()
    def merged(self):
        """Increase of the loss for each pair of neighbouring sublayers, (pairs, networks)."""
        start = self.model.embed(self.tokens)
        ends = deep.merge_sublayers(start, self.branches, alpha=self.model.alpha, mode=self.model.mode, axis=1)
        return torch.stack([own_losses(self.model, end, self.targets).double().cpu() for end in ends]) - self.whole

    def halved(self, chosen):
        """Increase of the loss if chosen pairs of layers run as one layer of double width."""
        groups = []
        for a in range(0, self.sublayers, 4):
            pair = [(a, a + 2), (a + 1, a + 3)] if a // 4 in chosen else [(a,), (a + 1,), (a + 2,), (a + 3,)]
            groups += pair
        return self.loss(groups) - self.whole

    def without_top(self, count):
        """Increase of the loss without the last layers."""
        return self.loss([(place,) for place in range(self.sublayers - 2 * count)]) - self.whole

    @torch.no_grad()
    def anatomy(self):
        """Mean path length with the network's own weights, and how its stream grows."""
        stream = deep.grouped_stack(
            self.model.embed(self.tokens), self.branches, alpha=self.model.alpha, mode=self.model.mode
        )
        inputs = F.layer_norm(stream, stream.shape[-1:]) if self.model.mode == "pre" else stream
        values = torch.stack([branch(h) for branch, h in zip(self.branches, inputs, strict=False)])
        squares = [part.double().square().mean((-2, -1)) for part in (values, stream[:-1])]
        depth_of = deep.effective_depth((squares[0] / squares[1]).T.cpu())
        return float(depth_of.mean()), (squares[1].log().mean(1) / 2).exp().cpu().numpy()


results, curves = {}, {}
for count in depths:
    for kind in ("Pre", "Post"):
        for rate in rates:
            how = {"steps": STEPS, "warmup": WARM, "schedule": run.pick(quick="linear", full="cosine")}
            model, curves[kind, count, rate] = trained(kind, count, rate, **how)
            results[kind, count, rate] = Tested(model)
best = {
    (kind, count): min((results[kind, count, rate] for rate in rates), key=lambda r: float(r.whole.mean()))
    for kind in ("Pre", "Post")
    for count in depths
}

# %% tags=["experiment", "hide-input"]
shown = depths[-1]
merged = {kind: best[kind, shown].merged().mean(1).numpy() for kind in ("Pre", "Post")}
anatomy = {kind: best[kind, shown].anatomy() for kind in ("Pre", "Post")}
pairs = np.arange(1, 2 * shown)
half = shown  # the first pair of the upper half, counted from 0
upper = {kind: merged[kind][half:].mean() for kind in merged}
lower = {kind: merged[kind][: half - 1].mean() for kind in merged}
claims.measure(
    "C3b",
    {
        **{kind: float(best[kind, shown].whole.mean()) - floor for kind in merged},
        **{f"{kind}, upper": upper[kind] for kind in merged},
        **{f"{kind}, lower": lower[kind] for kind in merged},
    },
)
with lab.style.use() as plt:
    fig, ax = plt.subplots(figsize=(7.2, 3.8))
    for kind, marker in (("Pre", "o"), ("Post", "s")):
        ax.plot(pairs, merged[kind], color=COLOUR[kind], marker=marker, label=f"{kind} Norm")
    ax.axvline(half + 0.5, color=lab.style.MUTED, linewidth=1, linestyle=":")
    ax.axhline(0, color=lab.style.MUTED, linewidth=1)
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.margins(y=0.08)
    ax.set(xlabel="sublayers $t$ and $t + 1$ side by side", ylabel="increase of the loss (nats)")
    ax.legend(loc="best")
    lab.style.title(ax, "Loss when two neighbours get the same input")
lab.figure(
    fig,
    name="merged",
    title="Two sublayers side by side in a trained network",
    caption=(
        f"**Figure 3.** Networks of {shown} layers, {2 * shown} sublayers, after training; means over {COPIES} networks. For each pair "
        "of neighbours, how much the test loss rises if both get the same input. Dotted: the middle. The axis is linear near zero."
    ),
    alt=(
        "Increase of the loss against the number of the pair: small and falling with depth for Pre Norm, larger throughout the "
        "upper half for Post Norm."
    ),
    data={"t": pairs, **merged},
)
for kind in merged:
    print(
        f"{kind} Norm: test loss, relative to single characters {lab.approx(float(best[kind, shown].whole.mean()) - floor)}; "
        f"increase per pair: lower half {lab.approx(lower[kind], 2)}, upper half {lab.approx(upper[kind], 2)}"
    )

# %% [markdown]
# One pair at a time is a mild operation. A harsher one takes the post at its word: if $L$ layers of Pre Norm are a shallower and
# wider network, then run them as one. We pair the layers, attention with attention and feed-forward with feed-forward, and run
# each pair as a single layer of double width. For comparison, we also drop the last layers altogether.

# %% tags=["experiment", "hide-input"]
quads = range(shown // 2)
CHOICES = {
    "lower half": [p for p in quads if p < shown // 4],
    "upper half": [p for p in quads if p >= shown // 4],
    "all": list(quads),
}
halved = {kind: {n: float(best[kind, shown].halved(c).mean()) for n, c in CHOICES.items()} for kind in merged}
tops = [1, 2, shown // 2]
dropped = {kind: [float(best[kind, shown].without_top(top).mean()) for top in tops] for kind in merged}
claims.measure(
    "C4b",
    {
        **{f"{kind}, halved": halved[kind]["upper half"] for kind in merged},
        **{f"{kind}, depth": anatomy[kind][0] for kind in merged},
    },
)
with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.8))
    for column, kind in enumerate(merged):
        at = np.arange(3) + 0.38 * column - 0.19
        left.bar(at, list(halved[kind].values()), width=0.36, color=COLOUR[kind], label=f"{kind} Norm")
        right.bar(at, dropped[kind], width=0.36, color=COLOUR[kind], label=f"{kind} Norm")
    left.set_xticks(range(3), list(CHOICES))
    right.set_xticks(range(3), [f"last {top}" for top in tops])
    left.set(xlabel="layers run in pairs", ylabel="increase of the loss (nats)")
    right.set(xlabel="layers dropped", ylabel="increase of the loss (nats)")
    left.legend(loc="upper left")
    lab.style.title(left, "Half as deep, twice as wide")
    lab.style.title(right, "Without the last layers")
lab.figure(
    fig,
    name="halved",
    title="Trained layers run in pairs, or dropped",
    caption=(
        f"**Figure 4.** The trained networks of {shown} layers. Left: pairs of layers run as one layer of double width, without "
        "training again. Right: the last layers left out. Means over the networks; mind the two scales."
    ),
    alt="Two bar charts of the increase of the loss, for Pre Norm and Post Norm side by side.",
    data={
        **{f"halved {kind}": list(v.values()) for kind, v in halved.items()},
        **{f"dropped {k}": v for k, v in dropped.items()},
    },
)
for kind in merged:
    size = anatomy[kind][1]
    print(
        f"{kind} Norm: mean path length {lab.approx(anatomy[kind][0])} of {2 * shown} sublayers; size of the stream from "
        f"{lab.approx(size[0], 2)} to {lab.approx(size[-1], 2)}"
    )
grown_like = lab.slope(np.log(np.arange(4, 2 * shown + 1)), np.log(anatomy["Pre"][1][3:]))
print("trained Pre Norm: size of the stream grows like t to the power", lab.approx(grown_like.slope, 2))

# %% [markdown]
# In Pre Norm the order of the upper layers hardly matters: run in pairs, as half as many layers of double width, they
# predict nearly as well. In Post Norm each layer works on what the one below has made, and the same operation is costly. This is
# the post's claim, tested where it matters. After training the stream of Pre Norm also grows faster than $\sqrt t$: the branches
# have found a direction in common, as [D2.11](#D2.11) allows.
#
# The test has a limit. It shows that a Pre Norm network *can do without* the order of its upper layers; it does not show that
# depth is what makes the other one better in the end.
#
# ## 9 Experiment C: who needs warm-up
#
# Last, the price of depth. The same networks, the same batches, but the learning rate is at its full height from the first step
# on.

# %% tags=["experiment", "hide-input"]
short = max(40, STEPS // 2)
rate = 3e-3 if run.scale == "quick" else 1e-3
plain = {
    kind: trained(kind, depths[-1], rate, steps=short, warmup=0, schedule="constant")[1] for kind in ("Pre", "Post")
}
warm = {kind: curves[kind, depths[-1], rate] for kind in plain}
claims.measure(
    "C7",
    {
        **{f"{kind}, none": plain[kind][-20:].mean() - floor for kind in plain},
        "Post, warm-up": warm["Post"][-20:].mean() - floor,
    },
)


def smooth(found, width=10):
    """Running mean."""
    return np.convolve(found, np.ones(width) / width, mode="valid")


with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.8), sharey=True)
    for panel, found in ((left, plain), (right, warm)):
        for kind in found:
            values = smooth(found[kind])
            panel.plot(np.arange(len(values)) + 10, values, color=COLOUR[kind], marker="", label=f"{kind} Norm")
        panel.axhline(floor, color=lab.style.MUTED, linewidth=1, linestyle=":", label="single characters")
        panel.set(xlabel="step")
    left.set(ylabel="loss (nats, mean of 10 steps)", ylim=(floor - 0.9, floor + 1.0))
    right.legend(loc="upper right")
    lab.style.title(left, "Without warm-up")
    lab.style.title(right, f"With warm-up over {WARM} steps")
lab.figure(
    fig,
    name="warm-up",
    title="Training with and without warm-up",
    caption=(
        f"**Figure 5.** Training loss of networks of {depths[-1]} layers, Adam with the peak rate {rate:g}. Dotted: the entropy of "
        "single characters, which needs no context."
    ),
    alt="Two panels of loss against step, without and with warm-up, for Pre Norm and Post Norm, with a dotted line.",
    data={
        "floor": floor,
        **{f"{kind} none": smooth(v)[::5] for kind, v in plain.items()},
        **{f"{kind} warm-up": smooth(v)[::5] for kind, v in warm.items()},
    },
)
for kind in plain:
    print(
        f"{kind} Norm, relative to single characters: without warm-up {lab.approx(plain[kind][-20:].mean() - floor)}, "
        f"with it {lab.approx(warm[kind][-20:].mean() - floor)}"
    )

# %% [markdown]
# Pre Norm does not care; Post Norm does. These short runs say nothing about which of the two ends better after long training
# (C6): they are far from the end, and an equal setting favours the one that is easy to train, as the post itself points out. A
# full run trains larger networks at three learning rates and reports the difference, whatever its sign.

# %% tags=["experiment", "hide-input"]
if run.scale == "full":
    gaps = {}
    for count in depths:
        ends = {kind: best[kind, count].whole.numpy() for kind in ("Pre", "Post")}
        gap = ends["Pre"].mean() - ends["Post"].mean()
        error_of = math.sqrt(sum(v.var(ddof=1) / COPIES for v in ends.values()))
        gaps |= {f"gain, {count}": gap, f"error, {count}": error_of}
        print(f"{count} layers: Post Norm better by {lab.approx(gap)} nats, standard error {lab.approx(error_of, 2)}")
    if shrink == 1:
        claims.measure("C6", gaps)
    for (kind, count, lr), found in results.items():
        print(f"{kind} Norm, {count} layers, rate {lr:g}: test loss {lab.approx(float(found.whole.mean()))}")
else:
    print("The comparison at the best learning rates is made in a full run only.")

# %% [markdown]
# ## 10 The claims

# %% tags=["experiment"]
claims.table()

# %% [markdown]
# ## 11 What to keep
#
# Pre Norm adds every branch to a stream that only grows, so that a late branch turns it by $1/\sqrt t$ where Post Norm turns it by
# 45° every time; what is safe about the one and risky about the other is the same number. At the start of training $M$ sublayers of Pre
# Norm are worth $\ln M$ in depth, those of Post Norm $M/2$, and the gradient of a branch is its share of the paths. Training does
# not make up for it: the upper layers of a small trained Pre Norm network can run side by side at little cost, those of Post
# Norm cannot.
#
# ### Exercises
#
# **1. How many for five?** How many sublayers does Pre Norm need for a mean path length of 5 at the start? And Post Norm?
#
# <details><summary>Solution</summary>
#
# $H_{M+1} \ge 6$, so $M$ is about $e^{6 - \gamma}$ with Euler's constant $\gamma$: the first is 226, that is 113 layers. Post Norm
# needs 10 sublayers, 5 layers. Every further unit multiplies the number for Pre Norm by $e$.
#
# </details>

# %% tags=["hide-cell"]
display(
    D.numeric("D10.1", ge(shallow(226), 5), by="226 sublayers are enough", points=1),
    D.numeric("D10.2", le(shallow(225), 5), by="one less is not", points=1),
)

# %% [markdown]
# **2. Depth by scaling.** Multiply the branches of Pre Norm so that $w_t$ stays at a constant $w$, as if every branch grew with the
# stream. How large is the stream after $M$ sublayers, and how deep is the network?
#
# <details><summary>Solution</summary>
#
# The mean square grows by a factor $1 + w$ in each sublayer, to $(1+w)^M$. The mean length is $Mw/(1+w)$, proportional to $M$. With
# $w = 1$ this is a Post Norm network without its norms, and its stream doubles its mean square every time.
#
# </details>

# %% tags=["hide-cell"]
display(
    D.exact("D10.3", eq(Product(1 + weight, (t, 1, M)), (1 + weight) ** M), by="mean square of the stream"),
    D.exact("D10.4", eq(Sum(weight / (1 + weight), (t, 1, M)), M * weight / (1 + weight)), by="mean length"),
)

# %% [markdown]
# **3. The spread.** Show that the variance of the path length in Pre Norm is $\sum_t \frac{t}{(t+1)^2}$, so that it, too, grows like
# $\ln M$.
#
# <details><summary>Solution</summary>
#
# Each branch is on a path with probability $p_t = 1/(t+1)$, independently of the others, so the variance is
# $\sum p_t(1 - p_t)$. It differs from the mean by $\sum (t+1)^{-2}$, which stays bounded.
#
# </details>

# %% tags=["hide-cell"]
display(
    D.exact("D10.5", eq(1 / (t + 1) * (1 - 1 / (t + 1)), t / (t + 1) ** 2), by="variance of one branch"),
    D.exact("D10.6", eq(1 / (t + 1) - t / (t + 1) ** 2, 1 / (t + 1) ** 2), by="mean less variance of one branch"),
    D.exact("D10.7", eq(Sum(1 / k**2, (k, 2, oo)), pi**2 / 6 - 1), by="all of them: bounded"),
)

# %% [markdown]
# ### Where the idea went since
#
# The comparison of the two orders goes back to Xiong et al. ([arXiv 2002.04745](https://arxiv.org/abs/2002.04745)); Admin
# ([arXiv 2004.08249](https://arxiv.org/abs/2004.08249)) and DeepNet ([arXiv 2203.00555](https://arxiv.org/abs/2203.00555)) made
# deep Post Norm networks trainable. The view of residual networks as ensembles of short paths is that of Veit et al.
# ([arXiv 1605.06431](https://arxiv.org/abs/1605.06431)), and the growth like $\sqrt t$ was used by De and Smith to initialise residual
# networks ([arXiv 2002.10444](https://arxiv.org/abs/2002.10444)). Large language models are built with Pre Norm all the same.
# Gromov et al. ([arXiv 2403.17887](https://arxiv.org/abs/2403.17887)) found that up to half of their upper layers can be removed at
# little cost, and Sun et al. ([arXiv 2502.05795](https://arxiv.org/abs/2502.05795)) trace this "curse of depth" to the growth of the
# stream and scale the norms of layer $l$ by $1/\sqrt l$.
