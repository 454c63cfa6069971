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
#     archive: 9660
#     title_zh: 梯度流：探索通向最小值之路
#     title_en: "Gradient flow: exploring the path to the minimum"
#     date: 2023-06-16
#     prerequisites: []
#     minutes: {quick: 1, full: 15}
# ---

# %% [markdown]
# # Which way is down, when the thing that moves is a probability?
#
# *Gradient flow: exploring the path to the minimum* · <span lang="zh">梯度流：探索通向最小值之路</span>
#
# > **Post** [<span lang="zh">梯度流：探索通向最小值之路</span>](https://kexue.fm/archives/9660) by Su Jianlin
# > (<span lang="zh">苏剑林</span>), 2023-06-16. This chapter is an independent work, in words of its own.
#
# **The question.** Why is "minus the gradient" the right direction, and right in which sense? Read a gradient step as a
# bargain: *get lower, but stay close*. What becomes of the bargain when "close" is measured by another norm, by the
# Kullback–Leibler divergence, or by the work it takes to carry one heap of sand to another? And why does the last
# reading turn a random walk, Langevin's, into gradient descent?
#
# **The answer in one sentence.** Every ruler for "close" has its own gradient flow; with the Wasserstein ruler the flow
# of the divergence $\mathrm{KL}(q\,\Vert\,p)$ is the Fokker–Planck equation, so adding noise to particles and pushing
# them by a velocity field are two ways to walk down the same hill.
#
# **Abstract.** We check the whole road: Euler steps and their error, proximal steps, steepest directions, natural
# gradients, the first variation, the step of Jordan, Kinderlehrer and Otto, the Fokker–Planck equation and Langevin's.
# Each comes with a picture of points, particles or densities on the move, and with its measured order of convergence.
# Where the post promises that the divergence falls to zero, we say when it does and show a case where it does not.
#
# <p lang="zh"><b>摘要。</b>本章逐步检验从欧拉法、近端形式、最速方向、自然梯度、变分、Wasserstein梯度流（JKO）到Fokker–Planck方程与朗之万采样的整条路线。每一步都配有点、粒子或密度随时间运动的图，并测量收敛阶。原文说散度终将趋于零，本章指出它何时成立，并给出一个不成立的例子。</p>

# %% tags=["setup", "hide-input"]
# The build writes the cell that installs kexue_lib (only where it is missing) in place of this comment.

# %% tags=["parameters"]
scale = "quick"  # or "full": one GPU, the same code with larger numbers
seed = 0
device = "auto"
shrink = 1  # divides the size of the experiments: a run in miniature

# %% tags=["hide-input"]
import itertools

import mpmath
import numpy as np
import sympy as sp
from IPython.display import display
from sympy import Derivative, Function, Integral, O, Rational, Subs, Sum, Symbol, exp, log, oo, pi, sqrt, symbols
from sympy.calculus.euler import euler_equations

from kexue_lib.derive import Derivation, Interval, MaxOver, Vector, eq, ge, gt, le, lt, similar, tends

# %% [markdown]
# ## 1 Walking in small steps
#
# Let $f$ be a function to be made small and $x$ a point. *Gradient descent* moves against the gradient, with a step
# size $h$ (the post writes $\alpha$): $x_{k+1} = x_k - h\,\nabla f(x_k)$. The post's first claim, C1, is that this is
# Euler's way to follow the *gradient flow* $\dot x = -\nabla f(x)$, a smooth road whose tangent is minus the gradient.
#
# How good is Euler's way? Every valley is a parabola near its bottom, so take $f(x) = \frac a2 x^2$ with a curvature $a
# > 0$. Start at $1$. The flow is $e^{-at}$. After the time $t$, that is after $t/h$ steps, gradient descent has reached
# $(1 - ah)^{t/h}$.
#
# Every numbered line below was checked by the machine that made this page, or is marked as defined, assumed or cited.
# The badge says which, and how; the code that did it is one click away.

# %% tags=["hide-input"]
h, t, a = symbols("h t a", positive=True)
x, y = symbols("x y", real=True)
flow = Function("x", real=True)
D = Derivation("gradient-flow", domain={h: Interval(0.01, 0.5), a: Interval(0.2, 3), t: Interval(0.1, 3)})
display(
    D.define("D1.1", eq(flow(t), exp(-a * t)), by="the candidate for the flow of $\\frac a2 x^2$ from $1$"),
    D.exact("D1.2", eq(Derivative(flow(t), t), -a * flow(t)), by="it follows minus the gradient"),
    D.limit("D1.3", tends((1 - a * h) ** (t / h), h, 0, flow(t)), by="gradient descent with small steps"),
)

# %% [markdown]
# The post stops at the limit. The error is worth a look: it is proportional to $h$. A second method, the *implicit*
# step $x_{k+1} = x_k - h\,\nabla f(x_{k+1})$, takes the slope at the far end and lands on $(1 + ah)^{-t/h}$. Its error
# has the same size and the opposite sign. We shall meet it again.

# %% tags=["hide-input"]
display(
    D.series(
        "D1",
        eq((1 - a * h) ** (t / h), exp(-a * t) * (1 - a**2 * t * h / 2) + O(h**2)),
        by="gradient descent runs a little ahead of the flow",
    ),
    D.series(
        "D1.4",
        eq((1 + a * h) ** (-t / h), exp(-a * t) * (1 + a**2 * t * h / 2) + O(h**2)),
        by="the implicit step lags behind by as much",
    ),
)

# %% [markdown]
# Gradient descent does not follow its road exactly. But it follows *another* road almost exactly. Let $f$ be any smooth
# function, here of two variables, and tilt it a little: $\tilde f = f + \frac h4 |\nabla f|^2$. By Taylor's theorem the
# flow of $\tilde f$ with velocity $v = -\nabla\tilde f$ moves in the time $h$ by $h v + \frac{h^2}2 (Dv)\,v$, up to
# $O(h^3)$, where $Dv$ is the matrix of derivatives of $v$. This is one step of gradient descent on $f$.

# %% tags=["hide-input"]
f, tilted = Function("f", real=True), Function(r"\tilde{f}", real=True)
v1, v2 = Function("v_1", real=True), Function("v_2", real=True)
slopes = [Derivative(f(x, y), z) for z in (x, y)]
display(
    D.define("D1.5", eq(tilted(x, y), f(x, y) + h / 4 * (slopes[0] ** 2 + slopes[1] ** 2)), by="the tilted function"),
    D.define("D1.6", eq(v1(x, y), -Derivative(tilted(x, y), x)), by="its velocity, first component"),
    D.define("D1.7", eq(v2(x, y), -Derivative(tilted(x, y), y)), by="its velocity, second component"),
    *(
        D.series(
            key,
            eq(
                h * v(x, y) + h**2 / 2 * (v1(x, y) * Derivative(v(x, y), x) + v2(x, y) * Derivative(v(x, y), y)),
                -h * slope + O(h**3),
            ),
            by=f"the {which} component: the flow of $\\tilde f$ makes the step of gradient descent on $f$",
        )
        for key, v, slope, which in (("D1.8", v1, slopes[0], "first"), ("D1.9", v2, slopes[1], "second"))
    ),
)

# %% [markdown]
# An error of $O(h^3)$ in each of $t/h$ steps adds up to $O(h^2)$. So gradient descent is a first-order method for the
# flow of $f$ and a *second-order* method for the flow of $\tilde f$. The extra term prefers regions where the gradient
# is small; Barrett and Dherin ([arXiv 2009.11162](https://arxiv.org/abs/2009.11162)) read it as a regularisation that
# finite steps bring for free. Figure 1 will show both roads.
#
# ## 2 Always downhill
#
# Along the flow $f$ never rises (C2). Move from $(x, y)$ with the velocity $-\nabla f$ for a short time $s$ and ask how
# fast $f$ changes at the start.

# %% tags=["hide-input"]
s = Symbol("s", real=True)
D.exact(
    "D2.1",
    eq(
        Subs(Derivative(f(x - s * slopes[0], y - s * slopes[1]), s), s, 0),
        -(slopes[0] ** 2) - slopes[1] ** 2,
    ),
    functions={"f": lambda u, v: mpmath.sin(1.3 * u + 0.4 * v) + u**2 / 7},  # an f for the search for counterexamples
    by="the chain rule: $\\dot f = -|\\nabla f|^2$",
)

# %% [markdown]
# With finite steps one can overshoot. How small is "small enough", as the post says? For a quadratic function $\frac12
# x^\top A x$ the change in one step has only two terms. Write $g = Ax$ for the gradient, here in two dimensions.

# %% tags=["hide-input"]
a11, a12, a22, x1, x2 = symbols("a_11 a_12 a_22 x_1 x_2", real=True)
quadratic = Function("f_2", real=True)
g1, g2 = Function("g_1", real=True), Function("g_2", real=True)
X = (x1, x2)
stepped = (x1 - h * g1(*X), x2 - h * g2(*X))
display(
    D.define(
        "D2.2", eq(quadratic(x1, x2), (a11 * x1**2 + 2 * a12 * x1 * x2 + a22 * x2**2) / 2), by="any quadratic form"
    ),
    D.define("D2.3", eq(g1(*X), Derivative(quadratic(*X), x1)), by="its gradient"),
    D.define("D2.4", eq(g2(*X), Derivative(quadratic(*X), x2))),
    D.exact(
        "D2",
        eq(
            quadratic(*stepped) - quadratic(*X),
            -h * (g1(*X) ** 2 + g2(*X) ** 2) + h**2 * quadratic(g1(*X), g2(*X)),
        ),
        by="the change in one step: $-h|g|^2 + \\frac{h^2}{2} g^\\top A g$",
    ),
)

# %% [markdown]
# In the direction of an eigenvector with the eigenvalue $a$ the change has a sign that can be read off. It is negative
# for $h < 2/a$ and only there. So on a quadratic $f$ a step lowers $f$ from every start except the minimum if and only
# if $h < 2/L$ with the largest eigenvalue $L$.

# %% tags=["hide-input"]
parabola = Function("f_1", real=True)
start = Symbol("x_0", positive=True)
u = Symbol("u", positive=True)
display(
    D.define("D2.5", eq(parabola(x), a * x**2 / 2), by="a parabola with curvature $a$"),
    D.exact(
        "D2.6",
        eq(parabola((1 - a * h) * start) - parabola(start), a**2 * h * start**2 * (a * h - 2) / 2),
        by="one step from $x_0$",
    ),
    D.exact(
        "D2.7",
        lt(a**2 * start**2 * h * (a * h - 2) / 2, 0),
        put={h: 2 / (a * (1 + u))},
        domain={h: Interval(0.001, 0.6), a: Interval(0.2, 3)},
        by="it falls for every $h < 2/a$",
    ),
    D.cite(
        "D2.8",
        le(f(x - h * Derivative(f(x), x)), f(x) - h * (1 - a * h / 2) * Derivative(f(x), x) ** 2),
        by="the descent lemma, for every $f$ with $f'' \\le a$ (Nesterov 2004, theorem 2.1.5)",
    ),
)

# %% [markdown]
# ## 3 Steepest, by which ruler?
#
# A short step $\delta$ changes $f$ by $\langle g, \delta\rangle$ plus something of second order, where $g = \nabla f$.
# The post drops the rest, which is fine for small steps, and asks for the best $\delta$ among those of one length
# $\varepsilon$ (C3). That is a question about an inner product. The square of a sum answers it, in every dimension $n$.

# %% tags=["hide-input"]
n, i = symbols("n i", integer=True, positive=True)
eps, G, E = symbols("epsilon G E", positive=True)
g, d = sp.IndexedBase("g", shape=(n,), real=True), sp.IndexedBase("delta", shape=(n,), real=True)


def total(term):
    """The sum over all coordinates."""
    return Sum(term, (i, 1, n))


w = Symbol("w", real=True)
D.domain.update({base: Vector(n, Interval(-2, 3)) for base in (g, d)})
display(
    D.series(
        "D3.1",
        eq(f(x + eps * w), f(x) + eps * w * Derivative(f(x), x) + O(eps**2)),
        by="what is dropped has second order (along a line with direction $w$)",
    ),
    D.define("D3.2", eq(G, sqrt(total(g[i] ** 2))), by="the length of the gradient"),
    D.define("D3.3", eq(E, sqrt(total(d[i] ** 2))), by="the length of the step"),
    D.exact("D3.4", ge(w**2, 0), tight={w: 0}, by="a square is not negative"),
)
D.exact(
    "D3.5",
    ge(total(g[i] * d[i]), -E * G),
    made=D["D3.4"].subs(w, d[i] / E + g[i] / G).sum(i, 1, n).multiply(E * G / 2).add(-E * G),
    by="no step of length $E$ does better than $-E\\,|g|$",
)

# %% [markdown]
# The bound is met: the step $-\varepsilon\, g/|g|$ has length $\varepsilon$ and reaches it. So "minus the gradient" is
# the steepest direction *for the Euclidean ruler*.

# %% tags=["hide-input"]
display(
    D.exact("D3.6", eq(total((-eps * g[i] / G) ** 2), eps**2), by="its length is $\\varepsilon$"),
    D.exact("D3.7", eq(total(g[i] * (-eps * g[i] / G)), -eps * G), by="it reaches the bound"),
)

# %% [markdown]
# Now change the ruler to $\|\delta\|_\rho = (\sum_i |\delta_i|^\rho)^{1/\rho}$ with $\rho > 1$. The right partner is
# the dual exponent $\sigma$ with $\frac1\rho + \frac1\sigma = 1$. One inequality for a single number $y > 0$ carries
# the whole proof: a power lies above its tangent.

# %% tags=["hide-input"]
k, z = symbols("k y", positive=True)  # rho = 1 + k, so that SymPy knows rho > 1
ap, bp = sp.IndexedBase("alpha", shape=(n,), positive=True), sp.IndexedBase("beta", shape=(n,), positive=True)
Ap, Bp = symbols("A B", positive=True)
dual = (1 + k) / k
D.domain[k] = Interval(0.2, 4)
display(
    D.exact(
        "D3.8",
        le((1 + k) * z - k, z ** (1 + k)),
        tight={z: 1},
        by="a power lies above its tangent at 1",
    ),
    D.exact(
        "D3.9",
        le(
            ap[i] * bp[i] / (Ap ** (1 / (1 + k)) * Bp ** (1 / dual)),
            ap[i] ** (1 + k) / ((1 + k) * Ap) + k / (1 + k) * bp[i] ** dual / Bp,
        ),
        made=D["D3.8"]
        .subs(z, ap[i] / Ap ** (1 / (1 + k)) * (bp[i] / Bp ** (1 / dual)) ** (-1 / k))
        .add(k)
        .multiply(bp[i] ** dual / Bp / (1 + k)),
        by="put $y = \\frac{\\alpha_i}{A^{1/\\rho}}(\\frac{\\beta_i}{B^{1/\\sigma}})^{-1/k}$ and weigh",
    ),
    D.define("D3.10", eq(Ap, total(ap[i] ** (1 + k))), by="$\\|\\alpha\\|_\\rho^\\rho$ with $\\rho = 1 + k$"),
    D.define("D3.11", eq(Bp, total(bp[i] ** dual)), by="$\\|\\beta\\|_\\sigma^\\sigma$ with $\\sigma = (1 + k)/k$"),
)
D.exact(
    "D3.12",
    le(total(ap[i] * bp[i]), Ap ** (1 / (1 + k)) * Bp ** (k / (1 + k))),
    made=D["D3.9"].sum(i, 1, n).multiply(Ap ** (1 / (1 + k)) * Bp ** (1 / dual)),
    by="Hölder's inequality: sum over the coordinates",
)

# %% [markdown]
# Read $\alpha_i = |\delta_i|$ and $\beta_i = |g_i|$: no step of $\rho$-length $\varepsilon$ does better than
# $-\varepsilon\,\|g\|_\sigma$. The best step has $|\delta_i|$ in proportion to $|g_i|^{\sigma - 1}$, with the signs
# against the gradient. It reaches the bound. Here $\sigma - 1 = 1/k$.

# %% tags=["hide-input"]
scale_of = eps / Bp ** (1 / (1 + k))
best = scale_of * bp[i] ** (1 / k)
display(
    D.exact("D3.13", eq(total(best ** (1 + k)), eps ** (1 + k)), by="its $\\rho$-length is $\\varepsilon$"),
    D.exact("D3", eq(total(bp[i] * best), eps * Bp ** (k / (1 + k))), by="it wins $\\varepsilon\\,\\|g\\|_\\sigma$"),
)

# %% [markdown]
# Two rulers lie at the ends of this family. For the largest entry, $\rho = \infty$, all coordinates move by the same
# amount: this is *sign descent*, the skeleton of the optimizers Lion and Tiger. For the sum of the entries, $\rho = 1$,
# only the coordinate with the largest slope moves. The proofs need only that an entry is at most the largest entry.

# %% tags=["hide-input"]
b = symbols("b", nonnegative=True)
size = sp.IndexedBase("s", shape=(n,), nonnegative=True)  # |delta_i|
slope_size = sp.IndexedBase("c", shape=(n,), nonnegative=True)  # |g_i|
longest, steepest = symbols(r"s_{\max} c_{\max}", nonnegative=True)
display(
    D.define("D3.14", eq(longest, MaxOver(size[i], (i, 1, n))), by="the largest of the $s_i = |\\delta_i|$"),
    D.define("D3.15", eq(steepest, MaxOver(slope_size[i], (i, 1, n))), by="the largest of the $c_i = |g_i|$"),
    D.exact("D3.16", le(size[i], longest)),
    D.exact(
        "D3.17",
        le(total(slope_size[i] * size[i]), longest * total(slope_size[i])),
        made=D["D3.16"].multiply(slope_size[i]).sum(i, 1, n),
        opaque=["D3.14"],
        by="ruler $\\infty$: at most $\\varepsilon\\,\\|g\\|_1$, reached when all $s_i$ are equal",
    ),
    D.exact("D3.18", le(slope_size[i], steepest)),
    D.exact(
        "D3.19",
        le(total(slope_size[i] * size[i]), steepest * total(size[i])),
        made=D["D3.18"].multiply(size[i]).sum(i, 1, n),
        opaque=["D3.15"],
        by="ruler 1: at most $\\varepsilon\\,\\|g\\|_\\infty$, reached by one coordinate",
    ),
)

# %% [markdown]
# Matrices have a ruler of their own, the spectral norm, the largest factor by which a matrix stretches a vector. If $G
# = U S V^\top$ is the singular value decomposition of the gradient, then $-\varepsilon\, U V^\top$ wins the sum of the
# singular values (this is the direction of the optimizer Muon), and von Neumann's trace inequality says that nothing
# wins more. We check what it wins for $2\times2$ matrices, with rotations $U$ and $V$.

# %% tags=["hide-input"]
angle1, angle2 = symbols("theta_1 theta_2", real=True)
sv1, sv2 = symbols("sigma_1 sigma_2", positive=True)


def rotation(angle):
    """The rotation by an angle."""
    return sp.Matrix([[sp.cos(angle), -sp.sin(angle)], [sp.sin(angle), sp.cos(angle)]])


U, V_ = rotation(angle1), rotation(angle2)
gradient_matrix, matrix_step = U * sp.diag(sv1, sv2) * V_.T, -eps * U * V_.T
D.exact(
    "D3.20",
    eq(sum(gradient_matrix[j, m] * matrix_step[j, m] for j in (0, 1) for m in (0, 1)), -eps * (sv1 + sv2)),
    by="$\\langle G, -\\varepsilon U V^\\top\\rangle$ for $2\\times2$ matrices",
)

# %% [markdown]
# ## 4 The step as a small optimisation
#
# The post rewrites the step: minimise $\frac{1}{2h}|x - x_0|^2 + f(x)$ (C4). Get lower, but stay close. Let us
# differentiate it. At the minimum $x = x_0 - h f'(x)$, with the slope at the *new* point. That is the implicit step.
# The explicit one appears when $f$ is first replaced by its tangent at $x_0$, with the slope $g_0 = f'(x_0)$. The post
# expands $f$ to first order and so arrives at the explicit step. With $f$ itself the same formula is the implicit one,
# and for small $h$ the two agree up to $O(h^2)$.

# %% tags=["hide-input"]
x0, g0 = symbols("x_0 g_0", real=True)
bargain = Function("Phi", real=True)
display(
    D.define("D4.1", eq(bargain(x), (x - x0) ** 2 / (2 * h) + f(x)), by="the bargain"),
    D.exact(
        "D4.2", eq(h * Derivative(bargain(x), x), x - (x0 - h * Derivative(f(x), x))), by="zero at the implicit step"
    ),
    D.exact(
        "D4.3",
        eq(h * Derivative((x - x0) ** 2 / (2 * h) + g0 * (x - x0), x), x - (x0 - h * g0)),
        by="with the tangent: the explicit step",
    ),
)

# %% [markdown]
# On a parabola both can be compared. The two steps differ by $O(h^2)$, which is why the limit cannot tell them apart.

# %% tags=["hide-input"]
xn = Symbol("x_1", real=True)
display(
    D.assume("D4.4", eq((xn - x0) / h + a * xn, 0), by="the minimum $x_1$ of the bargain for $f = \\frac a2 x^2$"),
    D.exact("D4.5", eq(xn, x0 / (1 + a * h)), given={D["D4.4"]: xn}, by="solve for $x_1$"),
    D.series(
        "D4", eq(x0 / (1 + a * h), (1 - a * h) * x0 + a**2 * h**2 * x0 + O(h**3)), by="implicit and explicit step"
    ),
)

# %% [markdown]
# The post adds that the new point is never worse. For the bargain that is right: its minimum is at most its value at
# $x_0$, whatever $f$ and $h$ are.

# %% tags=["hide-input"]
best_point = Symbol("x_1", real=True)
display(
    D.assume("D4.6", le(bargain(best_point), bargain(x0)), by="$x_1$ is a minimum of the bargain"),
    D.exact(
        "D4.7",
        le(f(best_point), f(x0) - (best_point - x0) ** 2 / (2 * h)),
        made=D["D4.6"].relation.add(-((best_point - x0) ** 2) / (2 * h)),
        by="take the first term to the other side",
    ),
)

# %% [markdown]
# The guarantee belongs to the implicit step. Gradient descent inherits only a part of it. On the parabola the implicit
# step lowers $f$ for every $h > 0$. The explicit step keeps the inequality [D4.7](#D4.7) only for $h \le 1/a$, and
# lowers $f$ only for $h < 2/a$, by [D2.6](#D2.6).

# %% tags=["hide-input"]
gd = (1 - a * h) * start
prox = start / (1 + a * h)
display(
    D.exact(
        "D4.8",
        eq(parabola(prox) - parabola(start), -(a**2) * h * start**2 * (a * h + 2) / (2 * (1 + a * h) ** 2)),
        by="the implicit step goes down for every $h$",
    ),
    D.exact(
        "D4.9",
        eq(parabola(gd) - parabola(start) + (gd - start) ** 2 / (2 * h), a**2 * h * start**2 * (a * h - 1) / 2),
        by="the explicit step: the slack of D4.7 changes sign at $h = 1/a$",
    ),
)

# %% [markdown]
# ## 5 Another ruler: the Kullback–Leibler divergence
#
# If the point $x$ holds the parameters of a distribution, the natural ruler compares distributions. The post puts the
# divergence $\mathrm{KL}(p_x\,\Vert\,p_{x_0})$ in place of the square (C5). Let us see it for Gaussians with mean $\mu$
# and standard deviation $s$. The old one has mean $0$ (choose the origin there) and standard deviation $s_0$.

# %% tags=["hide-input"]
mu = Symbol("mu", real=True)
sd, sd0 = symbols("s s_0", positive=True)
kl = Function("K", real=True)
bell = Function("p", positive=True)
D.domain.update({sd: Interval(0.5, 2), sd0: Interval(0.5, 2), mu: Interval(-1.5, 1.5)})


def at0(expr):
    """The value where both distributions are the same."""
    return Subs(expr, (mu, sd), (0, sd0))


display(
    D.define("D5.1", eq(bell(x, mu, sd), exp(-((x - mu) ** 2) / (2 * sd**2)) / sqrt(2 * pi * sd**2)), by="the density"),
    D.exact(
        "D5.2",
        eq(
            log(bell(mu + sd * w, mu, sd) / bell(mu + sd * w, 0, sd0)),
            log(sd0 / sd) + (mu + sd * w) ** 2 / (2 * sd0**2) - w**2 / 2,
        ),
        by="the log ratio of new and old density at $x = \\mu + s w$",
    ),
    D.define(
        "D5.3",
        eq(kl(mu, sd), log(sd0 / sd) + (mu**2 + sd**2) / (2 * sd0**2) - Rational(1, 2)),
        by="its mean, the divergence: $w$ has mean $0$ and mean square $1$",
    ),
)

# %% [markdown]
# At the start it vanishes together with its slope, as a square does. Its second derivatives form the *Fisher matrix*
# $F$.

# %% tags=["hide-input"]
display(
    D.exact("D5.4", eq(kl(mu, sd0), mu**2 / (2 * sd0**2)), by="at $s = s_0$: no distance of the start from itself"),
    D.exact("D5.5", eq(Derivative(kl(mu, sd), mu), mu / sd0**2), by="slope along the mean: none at $\\mu = 0$"),
    D.exact(
        "D5.6",
        eq(Derivative(kl(mu, sd), sd), sd / sd0**2 - 1 / sd),
        by="slope along the standard deviation: none at $s = s_0$",
    ),
    D.exact("D5.7", eq(at0(Derivative(kl(mu, sd), mu, mu)), 1 / sd0**2), by="Fisher matrix: mean"),
    D.exact("D5.8", eq(at0(Derivative(kl(mu, sd), sd, sd)), 2 / sd0**2), by="Fisher matrix: standard deviation"),
    D.exact(
        "D5.9", eq(kl(mu, sd), kl(mu, sd0) + kl(0, sd)), by="Fisher matrix: no mixed entry, since both parts add up"
    ),
)

# %% [markdown]
# So near the start the ruler is $\frac12\,\delta^\top F\,\delta$, with $F$ taken at the old point, where the expansion
# is made. Put it into the bargain and complete the square, here with two parameters. The first term on the right is
# never negative when $F$ is positive definite, and it vanishes for one step only: $\delta = -h F^{-1} g$, the *natural
# gradient*.

# %% tags=["hide-input"]
f11, f12, f22 = symbols("f_11 f_12 f_22", real=True)
d1, d2, n1, n2, c1, c2 = symbols("delta_1 delta_2 nu_1 nu_2 g_1 g_2", real=True)
fisher_form, natural_bargain = Function("F", real=True), Function("B", real=True)
D.domain.update({f11: Interval(1, 3), f22: Interval(1, 3), f12: Interval(-0.8, 0.8)})
display(
    D.define(
        "D5.10",
        eq(fisher_form(d1, d2), f11 * d1**2 + 2 * f12 * d1 * d2 + f22 * d2**2),
        by="$\\delta^\\top F\\,\\delta$",
    ),
    D.define("D5.11", eq(c1, f11 * n1 + f12 * n2), by="the gradient is $g = F\\nu$, so that $\\nu = F^{-1} g$"),
    D.define("D5.12", eq(c2, f12 * n1 + f22 * n2), by="second component"),
    D.define("D5.13", eq(natural_bargain(d1, d2), fisher_form(d1, d2) / (2 * h) + c1 * d1 + c2 * d2), by="the bargain"),
    D.exact(
        "D5",
        eq(natural_bargain(d1, d2), fisher_form(d1 + h * n1, d2 + h * n2) / (2 * h) - h / 2 * fisher_form(n1, n2)),
        by="complete the square: the best step is $-h\\nu$",
    ),
)

# %% [markdown]
# The natural gradient does not care how the distributions are named. In new parameters $\theta$, with $J$ the matrix of
# derivatives of $x$ by $\theta$, a step $\tau$ of $\theta$ moves $x$ by $\delta = J\tau$. Gradients become $J^\top g$
# and the Fisher matrix becomes $J^\top F J$. With these the bargain in $\theta$ is the bargain in $x$, so both have the
# same best step.

# %% tags=["hide-input"]
j11, j12, j21, j22, t1, t2 = symbols("j_11 j_12 j_21 j_22 tau_1 tau_2", real=True)
fisher, jacobian = sp.Matrix([[f11, f12], [f12, f22]]), sp.Matrix([[j11, j12], [j21, j22]])
renamed_step = sp.Matrix([t1, t2])
fisher_new, gradient_new = jacobian.T * fisher * jacobian, jacobian.T * sp.Matrix([c1, c2])
D.exact(
    "D5.14",
    eq(
        (renamed_step.T * fisher_new * renamed_step)[0] / (2 * h) + (renamed_step.T * gradient_new)[0],
        natural_bargain(*(jacobian * renamed_step)),
    ),
    by="the bargain in new parameters",
)

# %% [markdown]
# A trap: for the probabilities of a softmax, with the logits $\ell$ as parameters, the Fisher matrix is
# $\mathrm{diag}(\pi) - \pi\pi^\top$. Adding a constant to all logits changes nothing, so this matrix has no inverse;
# one takes the pseudo-inverse. Here are an entry on its diagonal and one beside it, for three logits, and its null
# direction.

# %% tags=["hide-input"]
l1, l2, l3, m1, m2, m3 = symbols("ell_1:4 m_1:4", real=True)
weight, kl3 = Function("P", positive=True), Function("K_3", real=True)


def weights(p1, p2, p3):
    """The three weights of a softmax."""
    return weight(p1, p2, p3), weight(p2, p3, p1), weight(p3, p1, p2)


def at_same(expr):
    """The value where both distributions have the logits m."""
    return Subs(expr, (l1, l2, l3), (m1, m2, m3))


pi1, pi2, pi3 = weights(m1, m2, m3)
display(
    D.define(
        "D5.15",
        eq(weight(l1, l2, l3), exp(l1) / (exp(l1) + exp(l2) + exp(l3))),
        by="the weight of the first of three logits",
    ),
    D.define(
        "D5.16",
        eq(
            kl3(l1, l2, l3),
            sum(new * log(new / old) for new, old in zip(weights(l1, l2, l3), weights(m1, m2, m3), strict=True)),
        ),
        by="divergence of the softmax of $\\ell$ from that of $m$",
    ),
    D.exact("D5.17", eq(at_same(Derivative(kl3(l1, l2, l3), l1, l1)), pi1 - pi1**2), by="Fisher matrix: diagonal"),
    D.exact("D5.18", eq(at_same(Derivative(kl3(l1, l2, l3), l1, l2)), -pi1 * pi2), by="Fisher matrix: beside it"),
    D.exact(
        "D5.19", eq(pi1 - pi1 * (pi1 + pi2 + pi3), 0), by="a row adds up to 0: equal shifts of all logits do nothing"
    ),
)

# %% [markdown]
# Sometimes the bargain with $\mathrm{KL}$ needs no expansion at all. Let the unknown be a distribution $q$ on $n$
# points itself, the cost linear, $\sum_i g_i q_i$, and the old distribution $\pi$. The winner is $\pi_i e^{-h g_i}$, up
# to a factor. This is *mirror descent*, or the update of multiplicative weights. The proof is short, and complete for
# every $n$.

# %% tags=["hide-input"]
wp = sp.IndexedBase("w", shape=(n,), positive=True)
old, winner, trial = (sp.IndexedBase(name, shape=(n,), positive=True) for name in ("pi", "q^*", "q"))
Z, W = symbols("Z W", positive=True)


def cost(q):
    """The bargain on the simplex."""
    return total(g[i] * q[i]) + total(q[i] * log(q[i] / old[i])) / h


display(
    D.define("D5.20", eq(W, total(wp[i])), by="any positive numbers $w_i$ …"),
    D.define("D5.21", eq(trial[i], wp[i] / W), by="… make a distribution"),
    D.define("D5.22", eq(Z, total(old[i] * exp(-h * g[i]))), by="a normalising sum"),
    D.define("D5.23", eq(winner[i], old[i] * exp(-h * g[i]) / Z), by="the candidate"),
    D.exact(
        "D5.24",
        eq(cost(trial), total(trial[i] * log(trial[i] / winner[i])) / h - log(Z) / h),
        by="the bargain is a divergence from the candidate, up to a constant",
    ),
    D.exact("D5.25", le(log(z), z - 1), tight={z: 1}, by="the logarithm lies below its tangent at 1"),
)
D.exact(
    "D5.26",
    ge(cost(trial), -log(Z) / h),
    made=D["D5.25"].subs(z, winner[i] / trial[i]).multiply(-trial[i]).sum(i, 1, n).multiply(1 / h).add(D["D5.24"]),
    by="the divergence is never negative, and zero for $q = q^*$",
)

# %% [markdown]
# ## 6 Functions of a whole density
#
# From here on the unknown is a density $q(x)$, and what should become small is a number $\mathcal F[q]$ that depends on
# all of it. The gradient of such a function is called its *first variation* $\delta\mathcal F/\delta q$. It says how
# $\mathcal F$ responds when $q$ is changed by a small bump $\eta$: the derivative of $\mathcal F[q + s\eta]$ at $s = 0$
# is $\int \frac{\delta\mathcal F}{\delta q}\,\eta\,dx$.
#
# When $\mathcal F[q] = \int F(q)\,dx$ adds up contributions point by point, so does its derivative, and it suffices to
# look at a single point. This is claim C7. The same line gives the first variations that we shall need: of the energy
# in a potential $V$, and of the negative entropy $\int q\log q$.

# %% tags=["hide-input"]
q0, r = symbols("q r", positive=True)
eta = Symbol("eta", real=True)
local, potential_value = Function("F", real=True), Symbol("V", real=True)
D.domain.update({s: Interval(-0.1, 0.1), q0: Interval(0.3, 3), r: Interval(0.2, 5), eta: Interval(-2, 2)})


def varied(density):
    """The derivative of a density's contribution when q changes by s·eta, at s = 0."""
    return Subs(Derivative(density(q0 + s * eta), s), s, 0)


display(
    D.exact("D6.1", eq(varied(local), Derivative(local(q0), q0) * eta), by="claim C7: the first variation is $F'(q)$"),
    D.exact("D6.2", eq(varied(lambda q: potential_value * q), potential_value * eta), by="energy in a potential: $V$"),
    D.exact("D6.3", eq(varied(lambda q: q * log(q)), (log(q0) + 1) * eta), by="negative entropy: $\\log q + 1$"),
)

# %% [markdown]
# Particles that act on each other bring a double integral $\frac12\iint W(x - y)\,q(x)\,q(y)$ with an even function
# $W$. On three points it is a double sum. Its first variation is the field of all particles, the convolution $W * q$.

# %% tags=["hide-input"]
three = range(3)
masses, bumps = symbols("q_1:4", positive=True), symbols("eta_1:4", real=True)
even = symbols("W_0:3", real=True)  # W at distance 0, 1 and 2
moved = [mass + s * bump for mass, bump in zip(masses, bumps, strict=True)]
D.exact(
    "D6.4",
    eq(
        Subs(Derivative(sum(even[abs(j - m)] * moved[j] * moved[m] for j in three for m in three) / 2, s), s, 0),
        sum(bumps[j] * sum(even[abs(j - m)] * masses[m] for m in three) for j in three),
    ),
    by="interaction on three points: $W * q$",
)

# %% [markdown]
# Bumps move mass around but do not create it, so $\int\eta = 0$ and a constant in the first variation plays no role.
# The flow uses its gradient only, and that forgets the constant as well.
#
# The functions that matter most compare $q$ with a target $p$. An *$f$-divergence* is $\int q\,f(p/q)\,dx$ with a
# convex $f$ and $f(1) = 0$. Its first variation depends on the ratio $r = p/q$ alone.

# %% tags=["hide-input"]
target = Symbol("p", positive=True)
ff = Function("f", real=True)
D.domain[target] = Interval(0.3, 3)
display(
    D.exact(
        "D6",
        eq(Derivative(q0 * ff(target / q0), q0), Subs(ff(r) - r * Derivative(ff(r), r), r, target / q0)),
        by="first variation of an $f$-divergence: $f(r) - r f'(r)$",
    ),
    D.exact(
        "D6.5",
        eq(q0 * (-log(target / q0)), q0 * log(q0 / target)),
        by="$f = -\\log$ is $\\mathrm{KL}(q\\,\\Vert\\,p)$, with $q$ in front",
    ),
    D.exact("D6.6", eq(-log(r) - r * Derivative(-log(r), r), 1 - log(r)), by="its first variation: $1 - \\log r$"),
)

# %% [markdown]
# Mind the order. The post writes $D_f(p\,\Vert\,q)$ for this integral; with $f = -\log$ it is
# $\mathrm{KL}(q\,\Vert\,p)$, the "reverse" divergence, in which the moving density $q$ stands in front.
#
# ## 7 Moving densities
#
# What is the right ruler for densities? Think of $q$ as a heap of sand. The *Wasserstein distance* $W_2(q_0, q_1)$ asks
# for the cheapest way to carry one heap to the place of another, where a grain that travels a distance $\ell$ costs
# $\ell^2$. The bargain with this ruler is the step of Jordan, Kinderlehrer and Otto (JKO): minimise $\frac{1}{2h}
# W_2^2(q, q_t) + \mathcal F[q]$ over densities $q$. The post quotes what it leads to for $h\to0$ (C6) and refers to the
# literature for the derivation. Here are two derivations, one in any number of dimensions that leans on one cited
# theorem, and one on the line without gaps.
#
# **First derivation.** Let every grain at $x$ move by $h\,v(x)$. Mass is conserved: the new density at the new place,
# times the stretching of space there, is the old density. We check in the plane that the new density is $q -
# h\,\mathrm{div}(q v)$, up to $O(h^2)$. The stretching is the determinant of the matrix of derivatives of $x + h v(x)$.

# %% tags=["hide-input"]
# Letters such as q, V or phi stand for any smooth function, and the proofs treat them so. These examples only serve the search
# for a counterexample that comes before the proofs.
examples = {
    "q": lambda *at: 2 + mpmath.sin(0.7 * at[0] - 1.1 * at[-1] + 0.3 * at[0] ** 2),
    "p": lambda at: 2 + mpmath.cos(0.9 * at + 0.5),
    "V": lambda at: mpmath.sin(0.8 * at + 0.2) + at**2 / 5,
    "b": lambda at: mpmath.cos(0.6 * at) - at / 4,
    "phi_1": lambda at: mpmath.sin(1.1 * at - 0.7) + at / 3,
    "varphi": lambda *at: mpmath.cos(0.5 * at[0] + 1.3 * at[-1]) + at[0] / 3,
    "v_x": lambda *at: mpmath.sin(0.9 * at[0] - 0.2 * at[-1]) + 1,
    "v_y": lambda *at: mpmath.cos(0.3 * at[0] + 0.8 * at[-1]) - at[0] / 5,
    "Q": lambda at: at + at**3 / 3,
    "Q_t": lambda at: 2 * at - at**2 / 9,
}
near = {x: Interval(-1.5, 1.5), y: Interval(-1.5, 1.5)}
dens, moved_dens = Function("q", positive=True), Function("q_h", real=True)
w1, w2 = Function("v_x", real=True), Function("v_y", real=True)
XY = (x, y)
arrived = (x + h * w1(*XY), y + h * w2(*XY))
divergence_v = Derivative(w1(*XY), x) + Derivative(w2(*XY), y)
jacobian_det = (1 + h * Derivative(w1(*XY), x)) * (1 + h * Derivative(w2(*XY), y)) - h**2 * Derivative(
    w1(*XY), y
) * Derivative(w2(*XY), x)
swirl = Derivative(w1(*XY), x) * Derivative(w2(*XY), y) - Derivative(w1(*XY), y) * Derivative(w2(*XY), x)
display(
    D.exact(
        "D7.1",
        eq(jacobian_det, 1 + h * divergence_v + h**2 * swirl),
        by="the stretching is $1 + h\\,\\mathrm{div}\\,v$, up to $O(h^2)$",
    ),
    D.define(
        "D7.2",
        eq(moved_dens(*XY), dens(*XY) - h * (Derivative(dens(*XY) * w1(*XY), x) + Derivative(dens(*XY) * w2(*XY), y))),
        by="the candidate $q - h\\,\\mathrm{div}(q v)$",
    ),
    D.series(
        "D7.3",
        eq(moved_dens(*arrived) * (1 + h * divergence_v), dens(*XY) + O(h**2)),
        by="mass is conserved, up to $O(h^2)$",
    ),
)

# %% [markdown]
# How does $\mathcal F$ change? By the definition of the first variation $\varphi = \delta\mathcal F/\delta q$ it
# changes by $-h\int\varphi\,\mathrm{div}(q v)$. A product rule turns this into $h\int\langle\nabla\varphi,
# v\rangle\,q$, because the integral of a divergence vanishes when $q$ decays at infinity.

# %% tags=["hide-input"]
varphi = Function("varphi", real=True)
D.exact(
    "D7.4",
    eq(
        -varphi(*XY) * (Derivative(dens(*XY) * w1(*XY), x) + Derivative(dens(*XY) * w2(*XY), y)),
        (Derivative(varphi(*XY), x) * w1(*XY) + Derivative(varphi(*XY), y) * w2(*XY)) * dens(*XY)
        - Derivative(varphi(*XY) * dens(*XY) * w1(*XY), x)
        - Derivative(varphi(*XY) * dens(*XY) * w2(*XY), y),
    ),
    functions=examples,
    domain=near,
    by="product rule: the last two terms are a divergence",
)

# %% [markdown]
# The price of the move is $\frac{1}{2h}\int |h v|^2 q$, provided that no cheaper way leads to the same new density.
# Brenier's theorem says that there is none when $v$ is a gradient and $h$ is small. So the bargain per grain is $\frac
# h2|v|^2 + h\langle\nabla\varphi, v\rangle$, up to $O(h^2)$. Complete the square again.

# %% tags=["hide-input"]
va, vb, pa, pb = symbols("v_x v_y varphi_x varphi_y", real=True)
wasserstein = Symbol("W_2", positive=True)
speed2 = Symbol("S", positive=True)
display(
    D.cite(
        "D7.5",
        eq(wasserstein**2, h**2 * speed2),
        by="$S = \\int |v|^2 q$ for a gradient $v$ and small $h$ (Brenier 1991; Santambrogio, arXiv 1609.03890)",
    ),
    D.exact(
        "D7.6",
        eq(
            h / 2 * (va**2 + vb**2) + h * (pa * va + pb * vb),
            h / 2 * ((va + pa) ** 2 + (vb + pb) ** 2) - h / 2 * (pa**2 + pb**2),
        ),
        by="so the best velocity is $v = -\\nabla\\varphi$",
    ),
)

# %% [markdown]
# It *is* a gradient, as Brenier's theorem asks. Put it into the law of conservation, let $h\to0$, and the density obeys
# $\partial_t q = \mathrm{div}(q\,\nabla\varphi)$. This is the post's claim C6.

# %% tags=["hide-input"]
display(
    D.define("D7.7", eq(w1(*XY), -Derivative(varphi(*XY), x)), by="the best velocity"),
    D.define("D7.8", eq(w2(*XY), -Derivative(varphi(*XY), y))),
    D.exact(
        "D7",
        eq(
            (moved_dens(*XY) - dens(*XY)) / h,
            Derivative(dens(*XY) * Derivative(varphi(*XY), x), x)
            + Derivative(dens(*XY) * Derivative(varphi(*XY), y), y),
        ),
        functions=examples,
        domain=near,
        uses=["D7.3", "D7.4", "D7.5", "D7.6"],
        by="the rate of change is $\\mathrm{div}(q\\,\\nabla\\varphi)$",
    ),
)

# %% [markdown]
# **Second derivation, on the line.** There one can describe a density by its quantiles: $Q(u)$ is the place below which
# the fraction $u$ of the mass lies. The cheapest transport on the line keeps the order of the grains, so it takes each
# quantile to the same quantile: $W_2^2 = \int_0^1 |Q - Q_t|^2 du$. This is the everyday Euclidean ruler! And $\mathcal
# F = \mathrm{KL}(q\,\Vert\,p)$ with $p \propto e^{-V}$ is, up to a constant, $\int V q + \int q\log q = \int_0^1
# \bigl(V(Q) - \log Q'\bigr)\,du$, because $q(Q)\,Q' = 1$.
#
# So the step is a classical problem of the calculus of variations. Its Euler–Lagrange equation, computed by SymPy, is
# on the left.

# %% tags=["hide-input"]
uu = Symbol("u", positive=True)
quantile, quantile_t = Function("Q", real=True), Function("Q_t", real=True)
potential, line_dens = Function("V", real=True), Function("q", positive=True)
lagrangian = (
    (quantile(uu) - quantile_t(uu)) ** 2 / (2 * h) + potential(quantile(uu)) - log(Derivative(quantile(uu), uu))
)
(equation,) = euler_equations(lagrangian, [quantile(uu)], [uu])
inverse_slope = 1 / Derivative(quantile(uu), uu)
steep = Symbol("Q'", positive=True)  # quantiles rise
display(
    D.exact(
        "D7.9",
        eq((potential_value + log(1 / steep)) * (1 / steep) * steep, potential_value - log(steep)),
        by="$(V + \\log q)\\,q\\,dx$ with $dx = Q'du$ and $q = 1/Q'$",
    ),
    D.exact(
        "D7.10",
        eq(
            equation.lhs,
            (quantile(uu) - quantile_t(uu)) / h
            + Subs(Derivative(potential(x), x), x, quantile(uu))
            + Derivative(inverse_slope, uu),
        ),
        functions=examples,
        by="Euler–Lagrange equation of the step on the line",
    ),
    D.exact(
        "D7.11",
        eq(
            Derivative(line_dens(quantile(uu)), uu),
            Subs(Derivative(log(line_dens(x)), x), x, quantile(uu))
            * line_dens(quantile(uu))
            * Derivative(quantile(uu), uu),
        ),
        by="the last term, with $1/Q' = q(Q)$: it is $(\\log q)'(Q)$, because $q(Q)\\,Q' = 1$",
    ),
)

# %% [markdown]
# Set it to zero: $Q = Q_t - h\,(V + \log q)'(Q)$. One JKO step is exactly an implicit Euler step for every grain, with
# the velocity $-(V + \log q)' = (\log\frac pq)'$. This is section 4 again, one floor up.

# For Gaussians everything can be solved. Let the target be $N(0, 1)$ and the start $N(m_0, s_0^2)$. The cheapest
# transport between Gaussians on the line costs $(m - m_0)^2 + (s - s_0)^2$, and the divergence was D5.3. So the mean
# and the standard deviation part company, and each has its own bargain.

# %% tags=["hide-input"]
m_start, s_start = symbols("m_0 s_0", positive=True)
mean_bargain, sd_bargain = Function("Phi_m", real=True), Function("Phi_s", real=True)
mm = Symbol("m", real=True)
s_best = (s_start + sqrt(s_start**2 + 4 * h * (1 + h))) / (2 * (1 + h))
D.domain.update({m_start: Interval(0.2, 3), s_start: Interval(0.3, 3), mm: Interval(-2, 2)})
display(
    D.define("D7.12", eq(mean_bargain(mm), (mm - m_start) ** 2 / (2 * h) + mm**2 / 2), by="bargain of the mean"),
    D.define(
        "D7.13",
        eq(sd_bargain(sd), (sd - s_start) ** 2 / (2 * h) + (sd**2 - 1 - log(sd**2)) / 2),
        by="bargain of the standard deviation",
    ),
    D.exact(
        "D7.14", eq(Subs(Derivative(mean_bargain(mm), mm), mm, m_start / (1 + h)), 0), by="best mean: $m_0/(1 + h)$"
    ),
    D.exact("D7.15", eq(Subs(Derivative(sd_bargain(sd), sd), sd, s_best), 0), by="best standard deviation"),
    D.exact("D7.16", gt(Derivative(sd_bargain(sd), sd, sd), 0), by="the bargain is convex: there is no other"),
    D.exact(
        "D7.17",
        eq(Subs(Derivative(sd_bargain(sd), sd), s_start, 1), (sd - 1) * (1 / h + 1 + 1 / sd)),
        by="from $s_0 = 1$: zero at $s = 1$ only, so the target stays where it is, for every $h$",
    ),
    D.series(
        "D7.18",
        eq(s_best, s_start + h * (1 / s_start - s_start) + O(h**2)),
        by="to first order the flow $\\dot s = 1/s - s$",
    ),
)

# %% [markdown]
# The post writes the solution of the step as $q + h\,\mathrm{div}(q\nabla\varphi)$ and goes to the limit at once. For a
# finite $h$ that expression is the *explicit* approximation, off by $O(h^2)$, and it need not be a density. For a
# narrow Gaussian it is negative at the centre: its value there, relative to $q$, is $1 + h\,(1 - 1/s^2)$.

# %% tags=["hide-input"]
narrow = exp(-(x**2) / (2 * sd**2)) / sqrt(2 * pi * sd**2)
drift_flux = Derivative(narrow * Derivative(log(narrow) + x**2 / 2, x), x)
display(
    D.exact(
        "D7.19",
        eq(Subs(1 + h * drift_flux / narrow, x, 0), 1 + h * (1 - 1 / sd**2)),
        by="one explicit step towards $N(0, 1)$, at $x = 0$",
    ),
    D.exact(
        "D7.20",
        eq((1 + h * (1 - 1 / sd**2)) * sd**2, (1 + h) * (sd**2 - h / (1 + h))),
        by="negative for $s^2 < h/(1 + h)$, and only there",
    ),
)

# %% [markdown]
# **The two flows of the post.** Put $\varphi = f(r) - r f'(r)$ from [D6](#D6) into [D7](#D7): this is claim C8.
# Particles follow $\dot x = -\nabla\varphi$. A short calculation says what this velocity is made of, on a line: it is
# $r^2 f''(r)$ times $\nabla\log r = \nabla\log p - \nabla\log q$. The two gradients are called the *scores* of $p$ and
# $q$.

# %% tags=["hide-input"]
ratio = Function("r", positive=True)
fr = Function("f", real=True)
p_dens = Function("p", positive=True)
at_ratio = Subs(fr(r) - r * Derivative(fr(r), r), r, ratio(x))
display(
    D.exact(
        "D7.21",
        eq(
            -Derivative(at_ratio, x),
            ratio(x) ** 2 * Subs(Derivative(fr(r), r, r), r, ratio(x)) * Derivative(log(ratio(x)), x),
        ),
        by="claim C8: the velocity is $r^2 f''(r)\\,\\nabla\\log r$",
    ),
    D.exact(
        "D7.22",
        eq(
            Derivative(line_dens(x) * Derivative(1 - log(p_dens(x) / line_dens(x)), x), x),
            -Derivative(line_dens(x) * Derivative(log(p_dens(x)), x), x) + Derivative(line_dens(x), x, x),
        ),
        functions=examples,
        domain=near,
        by="claim C9: for $f = -\\log$ the flow is $-\\mathrm{div}(q\\,\\nabla\\log p) + \\Delta q$",
    ),
)

# %% [markdown]
# ## 8 Noise instead of a velocity
#
# The last line is the *Fokker–Planck equation*, and it has a second reading. Its term $\Delta q$ is what noise does.
# Let particles move by $dx = b(x)\,dt + \sqrt2\,dw$, in small steps $x + h\,b + \sqrt{2h}\,\xi$ with a normal number
# $\xi$. Watch the mean of any test function $\phi$. Expand around the place without noise, $x + h\,b$, with $\kappa =
# \sqrt h$, and then put the mean of each power of $\xi$. The odd powers have mean $0$ by symmetry.

# %% tags=["hide-input"]
kappa = Symbol("kappa", positive=True)
xi, drift = Symbol("xi", real=True), Symbol("b", real=True)
coefficients = symbols("c_0:5", real=True)
test = Function("phi", real=True)
normal = exp(-(xi**2) / 2) / sqrt(2 * pi)
ahead = x + kappa**2 * drift
derivatives = [test(ahead), *(Subs(Derivative(test(x), (x, power)), x, ahead) for power in (1, 2, 3, 4))]
powers_of_noise = [(sqrt(2) * kappa) ** power / sp.factorial(power) for power in range(5)]
noisy_mean = derivatives[0] + kappa**2 * derivatives[2] + kappa**4 / 2 * derivatives[4]
D.domain.update({kappa: Interval(0.1, 1), xi: Interval(-2, 2), drift: Interval(-1, 1)})
display(
    D.define(
        "D8.1",
        eq(test(x), sum(ck * x**power for power, ck in enumerate(coefficients))),
        by="a test function: any polynomial of degree four",
    ),
    D.exact(
        "D8.2",
        eq(
            test(ahead + sqrt(2) * kappa * xi),
            sum(c_ * xi**power * d_ for power, (c_, d_) in enumerate(zip(powers_of_noise, derivatives, strict=True))),
        ),
        by="Taylor's formula, exact for this degree",
    ),
    D.exact("D8.3", eq(Integral(xi**2 * normal, (xi, -oo, oo)), 1), by="mean square of the noise"),
    D.exact("D8.4", eq(Integral(xi**4 * normal, (xi, -oo, oo)), 3), by="mean fourth power"),
    D.exact(
        "D8.5",
        eq(
            derivatives[0]
            + sum(
                powers_of_noise[power] * Integral(xi**power * normal, (xi, -oo, oo)) * derivatives[power]
                for power in (2, 4)
            ),
            noisy_mean,
        ),
        by="the mean of $\\phi$ after one step: its even powers",
        uses=["D8.2", "D8.3", "D8.4"],
    ),
    D.series(
        "D8.6",
        eq(noisy_mean, test(x) + kappa**2 * (drift * Derivative(test(x), x) + Derivative(test(x), x, x)) + O(kappa**4)),
        by="so the mean of $\\phi$ changes at the rate $b\\,\\phi' + \\phi''$",
        uses=["D8.5"],
    ),
)

# %% [markdown]
# The same rate, written for the density: integrate by parts twice. Under the integral, $b\,\phi' + \phi''$ times $q$
# equals $\phi$ times $-(b q)' + q''$, up to a derivative that integrates to zero. So the density of the noisy particles
# obeys $\partial_t q = -(b q)' + q''$. With $b = (\log p)'$ it is [D7.22](#D7.22): *Langevin's random walk is the
# gradient flow of the divergence, in the Wasserstein ruler*. This is the second half of claim C9.

# %% tags=["hide-input"]
drift_at, phi_at = Function("b", real=True)(x), Function("phi_1", real=True)(x)
qx = line_dens(x)
display(
    D.exact(
        "D8.7",
        eq(
            (drift_at * Derivative(phi_at, x) + Derivative(phi_at, x, x)) * qx,
            phi_at * (-Derivative(drift_at * qx, x) + Derivative(qx, x, x))
            + Derivative(drift_at * phi_at * qx + Derivative(phi_at, x) * qx - phi_at * Derivative(qx, x), x),
        ),
        functions=examples,
        domain=near,
        by="integration by parts, before the integral is taken",
    ),
    D.exact(
        "D8",
        eq(-Derivative(Derivative(log(p_dens(x)), x) * qx, x) + Derivative(qx, x, x), D["D7.22"].lhs),
        functions=examples,
        domain=near,
        uses=["D7.22", "D8.7"],
        by="with $b = (\\log p)'$: noise and velocity move the same density",
    ),
)

# %% [markdown]
# ## 9 A flow solved to the end
#
# Take the target $N(0, 1)$ and the start $N(M, S^2)$. Langevin's walk $dx = -x\,dt + \sqrt2\,dw$ is then the
# Ornstein–Uhlenbeck process. Its density stays Gaussian, and everything that the theory speaks of has a formula.

# %% tags=["hide-input"]
M, S = Symbol("M", real=True), Symbol("S", positive=True)
mean_t, var_t, ou = Function("m", real=True), Function("v", positive=True), Function("rho", positive=True)
goal, speed = Function(r"p_{\infty}", positive=True), Function("w", real=True)
D.domain.update({M: Interval(-2, 2), S: Interval(0.4, 2.5), x: Interval(-3, 3)})
display(
    D.define("D9.1", eq(mean_t(t), M * exp(-t)), by="mean at the time $t$"),
    D.define("D9.2", eq(var_t(t), 1 + (S**2 - 1) * exp(-2 * t)), by="variance"),
    D.define(
        "D9.3", eq(ou(x, t), exp(-((x - mean_t(t)) ** 2) / (2 * var_t(t))) / sqrt(2 * pi * var_t(t))), by="the density"
    ),
    D.define("D9.4", eq(goal(x), exp(-(x**2) / 2) / sqrt(2 * pi)), by="the target"),
    D.define(
        "D9.5", eq(speed(x, t), Derivative(log(goal(x) / ou(x, t)), x)), by="the velocity $\\nabla\\log\\frac pq$"
    ),
    D.exact(
        "D9.6",
        eq(Derivative(ou(x, t), t) / ou(x, t), (Derivative(x * ou(x, t), x) + Derivative(ou(x, t), x, x)) / ou(x, t)),
        by="it solves the Fokker–Planck equation",
    ),
    D.exact(
        "D9.7",
        eq(Derivative(ou(x, t), t) / ou(x, t), -Derivative(ou(x, t) * speed(x, t), x) / ou(x, t)),
        by="and it is carried along by the velocity: the same density without noise",
    ),
    D.exact(
        "D9.8",
        eq(
            Derivative(log(ou(x, t)), t) + speed(x, t) * Derivative(log(ou(x, t)), x),
            -Derivative(speed(x, t), x),
        ),
        by="along a particle $\\log q$ changes by minus the divergence of the velocity",
    ),
)

# %% [markdown]
# The moments follow the rule of test functions [D8.6](#D8.6), here for $\phi = x^k$ up to $k = 4$.

# %% tags=["hide-input"]
mv, vv = mean_t(t), var_t(t)
moments = [sp.Integer(1), mv, mv**2 + vv, mv**3 + 3 * mv * vv, mv**4 + 6 * mv**2 * vv + 3 * vv**2]
display(
    *(
        D.exact(
            f"D9.{8 + order}",
            eq(
                Derivative(moments[order], t),
                -order * moments[order] + order * (order - 1) * (moments[order - 2] if order > 1 else 0),
            ),
            by=f"moment {order}",
        )
        for order in (1, 2, 3, 4)
    ),
)

# %% [markdown]
# How fast does the divergence fall? Let $K$ be the divergence and $I$ the *relative Fisher information*, the mean
# square of the velocity.

# %% tags=["hide-input"]
K, fisher_information = Function("K", nonnegative=True), Function("I", nonnegative=True)
display(
    D.define("D9.13", eq(K(t), (mv**2 + vv - 1 - log(vv)) / 2), by="the divergence: D5.3 with the target $N(0, 1)$"),
    D.exact("D9.14", eq(speed(x, t), (1 / vv - 1) * (x - mv) - mv), by="the velocity is linear in $x$"),
    D.define(
        "D9.15",
        eq(fisher_information(t), (1 / vv - 1) ** 2 * vv + mv**2),
        by="its mean square: $x - m$ has mean $0$ and mean square $v$",
    ),
    D.exact(
        "D9",
        eq(Derivative(K(t), t), -fisher_information(t)),
        by="the divergence falls at the rate of the squared velocity",
    ),
)

# %% [markdown]
# This is $\dot f = -|\nabla f|^2$ once more, [D2.1](#D2.1), with the Wasserstein ruler. How small can the slope $I$ be
# while there is still height $K$ to lose? The inequality $I \ge 2K$ is the *logarithmic Sobolev inequality*, for
# Gaussians. It is an equation exactly when the variance is right and only the mean is off.

# %% tags=["hide-input"]
vpos = Symbol("v", positive=True)
mreal = Symbol("m", real=True)
display(
    D.exact("D9.16", eq(fisher_information(t) - 2 * K(t), log(vv) - 1 + 1 / vv), by="the mean drops out"),
    D.exact(
        "D9.17",
        ge(log(vpos) - 1 + 1 / vpos, 0),
        made=D["D5.25"].subs(z, 1 / vpos).multiply(-1).add(1 / vpos - 1),
        by="put $y = 1/v$ into D5.25",
    ),
    D.exact(
        "D9.18",
        ge(fisher_information(t), 2 * K(t)),
        made=D["D9.17"].subs(vpos, vv).add(D["D9.16"]).add(2 * K(t)),
        opaque=["D9.1", "D9.2"],
        by="the two together",
    ),
)

# %% [markdown]
# Among Gaussians with mean $\mu$ and standard deviation $s$ the Wasserstein ruler is the Euclidean one of the
# half-plane $(\mu, s)$. So the flow is minus the plain gradient of the divergence. With the ruler of section 5 each
# slope is divided by its entry of the Fisher matrix, [D5.7](#D5.7) and [D5.8](#D5.8). Figure 4 will show both.

# %% tags=["hide-input"]
to_target = Subs(kl(mu, sd), sd0, 1)
display(
    D.exact("D9.19", eq(-Derivative(to_target, mu), -mu), by="Wasserstein: rate of the mean"),
    D.exact("D9.20", eq(-Derivative(to_target, sd), 1 / sd - sd), by="Wasserstein: rate of the deviation"),
    D.exact("D9.21", eq(-(sd**2) * Derivative(to_target, mu), -(sd**2) * mu), by="KL: rate of the mean"),
    D.exact("D9.22", eq(-(sd**2) / 2 * Derivative(to_target, sd), (sd - sd**3) / 2), by="KL: rate of the deviation"),
)

# %% [markdown]
# The same balance holds in the plane, with a target of precision matrix $A$ (here in the directions of its
# eigenvectors, with eigenvalues $a_1, a_2$) and any Gaussian start. The covariance then relaxes as $\Sigma = A^{-1} +
# e^{-At}(\Sigma_0 - A^{-1})e^{-At}$.

# %% tags=["hide-input"]
a1, a2, s11, s22 = symbols("a_1 a_2 s_11 s_22", positive=True)
s12, mu1, mu2 = symbols("s_12 mu_1 mu_2", real=True)
c11, c12, c22 = (Function(f"Sigma_{name}", real=True) for name in ("11", "12", "22"))
det = c11(t) * c22(t) - c12(t) ** 2
push1, push2 = a1 * mu1 * exp(-a1 * t), a2 * mu2 * exp(-a2 * t)  # A times the mean
K2, I2 = Function("K_2", real=True), Function("I_2", real=True)
D.domain.update(
    {a1: Interval(0.5, 2), a2: Interval(0.5, 2), s11: Interval(0.5, 2), s22: Interval(0.5, 2), s12: Interval(-0.4, 0.4)}
)
display(
    D.define("D9.23", eq(c11(t), 1 / a1 + exp(-2 * a1 * t) * (s11 - 1 / a1)), by="covariance: first entry"),
    D.define("D9.24", eq(c22(t), 1 / a2 + exp(-2 * a2 * t) * (s22 - 1 / a2)), by="last entry"),
    D.define("D9.25", eq(c12(t), exp(-(a1 + a2) * t) * s12), by="mixed entry"),
    D.define(
        "D9.26",
        eq(K2(t), (a1 * c11(t) + a2 * c22(t) + push1**2 / a1 + push2**2 / a2 - 2 - log(a1 * a2 * det)) / 2),
        by="the divergence of two Gaussians",
    ),
    D.define(
        "D9.27",
        eq(I2(t), a1**2 * c11(t) + a2**2 * c22(t) - 2 * a1 - 2 * a2 + (c11(t) + c22(t)) / det + push1**2 + push2**2),
        by="the mean square of $(\\Sigma^{-1} - A)(x - m) - Am$",
    ),
    D.exact("D9.28", eq(Derivative(K2(t), t), -I2(t)), by="again it falls at the rate of the squared velocity"),
)

# %% [markdown]
# ## 10 Does it arrive?
#
# The post says that for $t\to\infty$ the divergence falls to zero, so that the particles end as samples of $p$ (C10).
# Part of this is always true: along the flow the functional falls at the rate of the mean squared velocity. Multiply
# [D7](#D7) by $\varphi$ and use the product rule.

# %% tags=["hide-input"]
lam, T = Symbol("lambda", positive=True), Symbol("T", positive=True)
height = Function(r"\mathcal{K}", real=True)
phi_xy, q_xy = varphi(*XY), dens(*XY)
D.exact(
    "D10.1",
    eq(
        phi_xy * (Derivative(q_xy * Derivative(phi_xy, x), x) + Derivative(q_xy * Derivative(phi_xy, y), y)),
        -q_xy * (Derivative(phi_xy, x) ** 2 + Derivative(phi_xy, y) ** 2)
        + Derivative(phi_xy * q_xy * Derivative(phi_xy, x), x)
        + Derivative(phi_xy * q_xy * Derivative(phi_xy, y), y),
    ),
    functions=examples,
    domain=near,
    by="so $\\dot{\\mathcal F} = -\\int q\\,|\\nabla\\varphi|^2$: the last two terms integrate to zero",
)

# %% [markdown]
# But a quantity that falls may come to rest above zero. What is missing is a lower bound of the slope by the height, a
# logarithmic Sobolev inequality $I \ge 2\lambda K$ with one $\lambda > 0$ for all densities. With it the descent is
# exponential. The next lines prove that.

# %% tags=["hide-input"]
display(
    D.assume(
        "D10.2",
        le(Derivative(height(t), t), -2 * lam * height(t)),
        by="logarithmic Sobolev inequality, put into $\\dot{\\mathcal K} = -I$",
    ),
    D.exact(
        "D10.3",
        le(Derivative(exp(2 * lam * t) * height(t), t), 0),
        made=D["D10.2"].relation.multiply(exp(2 * lam * t)).add(2 * lam * exp(2 * lam * t) * height(t)),
        by="multiply by $e^{2\\lambda t}$",
    ),
)

# %% tags=["hide-input"]
display(
    D.exact(
        "D10.4",
        le(exp(2 * lam * T) * height(T) - height(0), 0),
        made=D["D10.3"].integrate(t, 0, T),
        by="integrate from $0$ to $T$",
    ),
    D.exact(
        "D10",
        le(height(T), exp(-2 * lam * T) * height(0)),
        made=D["D10.4"].add(height(0)).multiply(exp(-2 * lam * T)),
        by="the divergence falls exponentially",
    ),
)

# %% [markdown]
# For the Gaussian of section 9 the inequality is [D9.18](#D9.18), with $\lambda = 1$. A theorem of Bakry and Émery
# gives it for every target whose potential $V = -\log p$ curves upwards with at least $\lambda$ in every direction.

# %% tags=["hide-input"]
slope_information = Function(r"\mathcal{I}", real=True)
D.cite(
    "D10.5",
    ge(slope_information(t), 2 * lam * height(t)),
    by="for $V'' \\ge \\lambda > 0$; $\\mathcal I$ is the relative Fisher information (Bakry and Émery 1985)",
)

# %% [markdown]
# Without some such condition, the promise can fail. Let the target be uniform on the two intervals $[-2, -1]$ and $[1,
# 2]$, with the mass $\theta$ on the right one, and start uniformly there.

# %% tags=["hide-input"]
share = Symbol("theta", positive=True)  # the target's mass on [1, 2]
slant = Symbol("u", real=True)
D.domain[share] = Interval(0.05, 0.9)
display(
    D.exact(
        "D10.6",
        eq(Integral(log(1 / share), (x, 1, 2)), -log(share)),
        by="the divergence of $q = 1$ from $p = \\theta$ on $[1, 2]$",
    ),
    D.exact(
        "D10.7",
        eq(Derivative(log(share * exp(slant * (x - Rational(3, 2)))), x), slant),
        by="the velocity $\\nabla\\log\\frac pq$, if $\\log p$ had the slope $u$ there; it has none: nothing moves",
    ),
)

# %% [markdown]
# With $\theta = \frac12$ the divergence stays at $\log 2$ forever. Strictly, this $p$ lies outside the assumptions that
# make the flow well defined (a smooth positive density). But it tells what a nearly empty gap does: the flow then
# arrives in the end, after a time that grows exponentially with the height of the barrier. Figure 9 measures it. For
# the double well $V = \beta(x^2 - 1)^2$ Kramers' law names the rate.

# %% tags=["hide-input"]
barrier, relaxation = Symbol("beta", positive=True), Function(r"\mathcal{R}", positive=True)
D.cite(
    "D10.8",
    similar(relaxation(barrier), 4 * sqrt(2) / pi * barrier * exp(-barrier), barrier, oo),
    by="rate at which the flow in $\\beta(x^2 - 1)^2$ forgets its start (Kramers 1940)",
)

# %% [markdown]
#
# ## 11 One formula for all divergences
#
# By [D7.21](#D7.21) every $f$-divergence moves particles along the *same* direction, $\nabla\log p - \nabla\log q$.
# They differ by a factor, a mobility $r^2 f''(r)$ that depends on the ratio $r = p/q$ alone. Here it is for five
# divergences.

# %% tags=["hide-input"]
divergences = {
    "reverse KL": (-log(r), sp.Integer(1)),
    "forward KL": (r * log(r), r),
    "$\\chi^2$": ((r - 1) ** 2, 2 * r**2),
    "squared Hellinger": ((sqrt(r) - 1) ** 2, sqrt(r) / 2),
    "Jensen–Shannon": ((r * log(r) - (r + 1) * log((r + 1) / 2)) / 2, r / (2 * (r + 1))),
}
display(
    *(
        D.exact(f"D11.{number}", eq(r**2 * Derivative(convex, r, r), mobility), by=name)
        for number, (name, (convex, mobility)) in enumerate(divergences.items(), 1)
    ),
)

# %% [markdown]
# Where the target has much more mass than there are particles, $r$ is large: $\chi^2$ sends them there in a hurry,
# Jensen–Shannon does not. Where $r$ is small, all but the reverse divergence lose interest. And only a constant
# mobility gives a velocity that is a plain difference of scores, so that the part $-\nabla\log q$ can be traded for
# noise. If the mobility is 1, $f$ is $-\log r$ up to a linear function:

# %% tags=["hide-input"]
display(
    D.exact(
        "D11",
        eq(Derivative(ff(r) + log(r), r, r), (r**2 * Derivative(ff(r), r, r) - 1) / r**2),
        by="mobility 1 means that $f + \\log$ has no curvature",
    ),
    D.exact(
        "D11.6", eq(qx * Derivative(log(qx), x), Derivative(qx, x)), by="the trade: $q\\,\\nabla\\log q = \\nabla q$"
    ),
)

# %% [markdown]
# ## 12 Finite steps of Langevin
#
# On a computer the walk has steps: $x' = x - h\,\lambda\,x + \sqrt{2h}\,\xi$ for a target $N(0, 1/\lambda)$. Each step
# multiplies the variance by $(1 - \lambda h)^2$ and adds $2h$. Where does that come to rest?

# %% tags=["hide-input"]
vk, rest = Symbol("v", positive=True), Symbol(r"v_*", positive=True)
small = Symbol("h", positive=True)
biased = 1 / (lam * (1 - lam * h / 2))
D.domain.update({lam: Interval(0.5, 2), vk: Interval(0.2, 4)})
display(
    D.assume("D12.1", eq((1 - lam * h) ** 2 * vk + 2 * h, vk), by="a variance $v$ that stays as it is"),
    D.exact("D12", eq(vk, biased), given={D["D12.1"]: vk}, by="solve for $v$: the stationary variance is too large"),
    D.exact(
        "D12.2",
        eq((1 - lam * h) ** 2 * vk + 2 * h - biased, (1 - lam * h) ** 2 * (vk - biased)),
        by="from any start the distance to it shrinks by $(1 - \\lambda h)^2$ in each step: stable for $h < 2/\\lambda$",
    ),
    D.series("D12.3", eq(biased, 1 / lam + h / 2 + O(h**2)), by="the bias has first order"),
)

# %% [markdown]
# So Langevin with finite steps samples another distribution than it was asked for, and an accept–reject step is the
# usual remedy (MALA). The JKO step has its own error on the way, but the target is a fixed point of it, for every $h$
# ([D7.17](#D7.17)).

# %% [markdown]
# ## 13 What will be tested, and by which rule
#
# Eleven claims of the post can be tested; where a claim has parts with different fates they get rows of their own, and
# what goes beyond the post says so. The rules stand here before anything is measured. A claim *holds* when every
# condition of its rule is met, *partly* when some are, and *fails* when none is. A claim that this run cannot test
# stays *open*.

# %% tags=["experiment", "hide-input"]
import torch

from kexue_lib import flows, lab
from kexue_lib.lab import Criterion, settled

run = lab.Run(scale=scale, seed=seed, device=device)
claims = lab.Claims("gradient-flow")
real = {"dtype": torch.float64, "device": run.device}

claims.register(
    "C1",
    r"gradient descent is Euler's method for $\dot x = -\nabla f(x)$",
    kind="exact",
    how="the limit on a parabola; error measured on a function of two variables, for five step sizes",
    criteria=[
        settled(D["D1.3"], "small steps tend to the flow"),
        Criterion("order", "error proportional to $h$: slope within 0.05 of 1", lambda v: abs(v["order"] - 1) < 0.05),
    ],
    evidence=["D1"],
)
claims.register(
    "C1a",
    r"beyond the post: it follows the flow of $f + \frac h4|\nabla f|^2$ with second order",
    kind="exact",
    how="one step compared for every smooth $f$; error measured as for C1",
    criteria=[
        settled(D["D1.8"], "first component"),
        settled(D["D1.9"], "second component"),
        Criterion("order", "slope within 0.15 of 2", lambda v: abs(v["order"] - 2) < 0.15),
    ],
)
claims.register(
    "C2", r"along the flow $\dot f = -|\nabla f|^2 \le 0$", kind="exact", how="chain rule", steps=[D["D2.1"]]
)
claims.register(
    "C2a",
    "a small enough learning rate goes down",
    kind="exact",
    how="quadratic functions: exactly for $h < 2/L$; other functions: the cited descent lemma",
    steps=[D["D2"], D["D2.6"], D["D2.7"]],
    evidence=["D2.8"],
)
claims.register(
    "C3",
    r"among steps of one length $-\nabla f$ is steepest, to first order; another norm has another direction",
    kind="exact",
    how="proved for every dimension; best of 500 random steps for six rulers",
    criteria=[
        settled(D["D3.5"], "Euclidean ruler: a bound"),
        settled(D["D3.7"], "which minus the gradient reaches"),
        settled(D["D3.12"], r"$\rho$-norms: the bound"),
        settled(D["D3"], "and the step that reaches it"),
        Criterion(
            "value", r"$\langle g, \delta\rangle = -\varepsilon\|g\|_*$ to $10^{-12}$", lambda v: v["gap"] < 1e-12
        ),
        Criterion("rivals", "no random step does better", lambda v: v["best rival"] <= 1 + 1e-12),
    ],
    evidence=["D3.1"],
)
claims.register(
    "C4a",
    r"a gradient step minimises $\frac{1}{2h}|x - x_t|^2 + f(x)$, for small $h$",
    kind="approximation",
    how="exact with $f$ expanded at $x_t$; distance of explicit and implicit step measured",
    criteria=[
        settled(D["D4.3"], "with the tangent of $f$: the explicit step"),
        settled(D["D4"], "on a parabola the two differ by $O(h^2)$"),
        Criterion("order", "difference of one step: slope in $[1.8, 2.2]$", lambda v: 1.8 <= v["order"] <= 2.2),
    ],
    evidence=["D4.2"],
)
claims.register(
    "C4b",
    "the minimum of that expression is never worse than $x_t$",
    kind="exact",
    how="proved for a minimum; gradient descent with the same $h$ measured on the parabola beside it",
    criteria=[settled(D["D4.7"], assuming=["D4.6"]), settled(D["D4.8"], "on a parabola, for every $h$")],
    evidence=["D4.9"],
)
claims.register(
    "C5",
    r"KL in place of the square, to second order, gives the natural gradient $-h F^{-1}\nabla f$",
    kind="exact",
    how="derivatives of the divergence; complete the square",
    steps=[D["D5.4"], D["D5.5"], D["D5.6"], D["D5.7"], D["D5.8"], D["D5.9"], D["D5"]],
)
claims.register(
    "C6",
    r"the step with $W_2$ leads to $\partial_t q = \mathrm{div}\bigl(q\,\nabla\frac{\delta\mathcal F}{\delta q}\bigr)$",
    kind="exact",
    how="formal derivation in the plane; Euler–Lagrange on the line; JKO steps against the equation in a double well",
    criteria=[
        settled(D["D7"], "formal, any dimension", assuming=["D7.5"]),
        settled(D["D7.10"], "on the line"),
        Criterion(
            "order", r"$W_2$ to the equation at $t = 1$: slope in $[0.85, 1.1]$", lambda v: 0.85 <= v["order"] <= 1.1
        ),
    ],
)
claims.register(
    "C7", r"for $\int F(q)\,dx$ the first variation is $F'(q)$", kind="exact", how="differentiated", steps=[D["D6.1"]]
)
claims.register(
    "C8",
    r"the flow of $\int q\,f(p/q)$ moves particles with $-\nabla\bigl(f(r) - r f'(r)\bigr)$",
    kind="exact",
    how="differentiated; five divergences on a ring, from random starts",
    criteria=[
        settled(D["D6"], "first variation"),
        settled(D["D7.21"], "the velocity"),
        Criterion("descent", "every divergence falls in every step", lambda v: v["largest rise"] <= 0),
        Criterion("balance", r"$-\dot D = \int q|v|^2$ to 5 %", lambda v: v["worst balance"] < 0.05),
    ],
    evidence=["D11.1", "D11.2", "D11.3", "D11.4", "D11.5"],
)
claims.register(
    "C9",
    r"$f = -\log$ gives the Fokker–Planck equation, and $dx = \nabla\log p\,dt + \sqrt2\,dw$ has the same density",
    kind="exact",
    how="derivation; particles of the noisy walk against the equation in a double well at $t = 1$",
    criteria=[
        settled(D["D7.22"], "the equation"),
        settled(D["D8"], "the same for noise"),
        Criterion(
            "density", "total variation below 0.02 for $h = 0.005$ and $0.00125$", lambda v: v["total variation"] < 0.02
        ),
        Criterion("descent", "the divergence never rises", lambda v: v["largest rise"] <= 0),
    ],
    evidence=["D8.2", "D8.6", "D8.7"],
)
claims.register(
    "C9a",
    r"beyond the post: with finite steps the variance is $1/(1 - h/2)$, not 1",
    kind="exact",
    how="solved; particles for $h = 0.4, 0.2, 0.1$, target $N(0, 1)$",
    criteria=[
        settled(D["D12"], assuming=["D12.1"]),
        settled(D["D12.2"], "reached from any start"),
        Criterion("variance", "within 4 standard errors for every $h$", lambda v: v["largest deviation"] < 4),
    ],
)
claims.register(
    "C10",
    r"as $t\to\infty$ the divergence tends to 0",
    kind="heuristic",
    how="proved under a logarithmic Sobolev inequality; double well; a target with a gap",
    criteria=[
        settled(D["D10"], "with the inequality, exponentially", assuming=["D10.2"]),
        Criterion("well", "double well: at $t = 10$ below $10^{-6}$", lambda v: v["double well"] < 1e-6),
        Criterion(
            "gap",
            "target with a gap, start on one side: at $t = 100$ below a tenth of the start",
            lambda v: v["gap, relative"] < 0.1,
        ),
    ],
    evidence=["D10.6", "D10.7"],
)
claims.register(
    "C11",
    "the equation for $x$ without noise is formal only, because $q_t$ is not known; the one with noise can be used",
    kind="empirical",
    how="300 particles, score of $q_t$ by a kernel density estimate, against Langevin; three runs, mean over $35 < t \\le 40$",
    criteria=[
        Criterion("noise", r"Langevin comes within $W_2 = 0.3$ of $p$", lambda v: v["W2 with noise"] < 0.3),
        Criterion(
            "formal only",
            "the particles without noise stay farther away",
            lambda v: v["W2 without noise"] > v["W2 with noise"],
        ),
    ],
)
in_full = "needs a GPU: only in a full run"
claims.register(
    "C6a",
    "beyond the post: JKO steps in the plane, each a trained network, follow the Fokker–Planck equation",
    kind="empirical",
    how="ten steps of $h = 0.1$ in a rotated double well; sliced $W_2$ to exact samples",
    **run.pick(
        quick={"open_because": in_full},
        full={
            "criteria": [
                Criterion("distance", "below 0.1 at every tenth of the time", lambda v: v["largest distance"] < 0.1)
            ]
        },
    ),
)
claims.register(
    "C9b",
    r"beyond the post: in 100 dimensions, every direction has the variance $1/(\lambda(1 - \lambda h/2))$",
    kind="empirical",
    how="Gaussian target with condition number 100; moments of Langevin particles",
    **run.pick(
        quick={"open_because": in_full},
        full={
            "criteria": [
                Criterion("variance", "every direction within 5 standard errors", lambda v: v["largest deviation"] < 5),
                Criterion("descent", "the divergence from the moments never rises", lambda v: v["largest rise"] <= 0),
            ]
        },
    ),
)
claims.register(
    "C11a",
    "the same for eight Gaussians on a ring in the plane",
    kind="empirical",
    how="as C11, with sliced $W_2$",
    **run.pick(
        quick={"open_because": in_full},
        full={
            "criteria": [
                Criterion("noise", "Langevin: below 0.3", lambda v: v["with noise"] < 0.3),
                Criterion("formal only", "without noise: farther away", lambda v: v["without noise"] > v["with noise"]),
            ]
        },
    ),
)
claims.table()

# %% [markdown]
# ## 14 Points: the two roads of gradient descent
#
# The function is $f(x, y) = (x^2 - 1)^2 + \frac12 xy + \frac12 y^2 - \cos y$, with two valleys. Gradient descent, the
# flow of $f$ and the flow of $\tilde f$ set out from the same random points and walk for one unit of time.


# %% tags=["experiment", "hide-input"]
def landscape(at):
    """The function of the points ``(..., 2)``."""
    x, y = at.unbind(-1)
    return (x**2 - 1) ** 2 + x * y / 2 + y**2 / 2 - torch.cos(y)


def slope_of(at):
    """Its gradient."""
    x, y = at.unbind(-1)
    return torch.stack((4 * x * (x**2 - 1) + y / 2, x / 2 + y + torch.sin(y)), dim=-1)


def tilted_slope(at, h):
    """The gradient of f + h/4 |grad f|^2: the slope g, plus h/2 times the Hessian times g."""
    x, y = at.unbind(-1)
    g = slope_of(at)
    a, b = g.unbind(-1)
    return g + h / 2 * torch.stack(((12 * x**2 - 4) * a + b / 2, a / 2 + (1 + torch.cos(y)) * b), dim=-1)


def exact_flow(slope, start, steps=128):
    """The flow for one unit of time by the method of Runge and Kutta; all points ``(steps + 1, ..., 2)``."""
    path, dt = [start], 1 / steps
    for _ in range(steps):
        at = path[-1]
        k1 = -slope(at)
        k2 = -slope(at + dt / 2 * k1)
        k3 = -slope(at + dt / 2 * k2)
        k4 = -slope(at + dt * k3)
        path.append(at + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return torch.stack(path)


starts = torch.from_numpy(
    run.rng("starts").uniform(-1.2, 1.2, (max(4, run.pick(quick=40, full=4000) // shrink), 2))
).to(**real)
step_sizes = np.array([1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256])
true_end = exact_flow(slope_of, starts)[-1]
flow_error, tilted_error, gap_of_steps = [], [], []
for size in step_sizes:
    end = flows.euler_flow(slope_of, starts, float(size), round(1 / size))
    tilted_end = exact_flow(lambda at, size=size: tilted_slope(at, size), starts)[-1]
    flow_error.append(float((end - true_end).norm(dim=1).square().mean().sqrt()))
    tilted_error.append(float((end - tilted_end).norm(dim=1).square().mean().sqrt()))
    if size <= 1 / 64:  # where the implicit step is found by repetition
        implicit = starts
        for _ in range(60):
            implicit = starts - float(size) * slope_of(implicit)
        explicit = starts - float(size) * slope_of(starts)
        gap_of_steps.append(float((implicit - explicit).norm(dim=1).square().mean().sqrt()))
order = lab.slope(np.log(step_sizes[-3:]), np.log(flow_error[-3:]))
tilted_order = lab.slope(np.log(step_sizes[-3:]), np.log(tilted_error[-3:]))
claims.measure("C1", {"order": order})
claims.measure("C1a", {"order": tilted_order})
claims.measure("C4a", {"order": lab.slope(np.log(step_sizes[-3:]), np.log(gap_of_steps))})

coarse = 1 / 8  # for the picture
shown = torch.tensor([[0.15, 1.15]], **real)
roads = {
    "gradient flow of $f$": exact_flow(slope_of, shown)[:, 0],
    r"gradient flow of $\tilde f$": exact_flow(lambda at: tilted_slope(at, coarse), shown)[:, 0],
    "gradient descent": flows.euler_flow(slope_of, shown, coarse, 8, return_path=True)[:, 0],
}
with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.0))
    grid_x, grid_y = torch.meshgrid(torch.linspace(-0.1, 1.3, 80), torch.linspace(-0.7, 1.3, 80), indexing="xy")
    heights = landscape(torch.stack((grid_x, grid_y), dim=-1))
    left.contour(grid_x, grid_y, heights, levels=18, colors=lab.style.GRID, linewidths=0.8)
    for label, path in roads.items():
        dots = {"marker": "o", "linestyle": "none"} if label == "gradient descent" else {"marker": ""}
        left.plot(*path.T.cpu(), label=label, **dots)
    left.set(xlabel="$x$", ylabel="$y$")
    left.legend(loc="lower left")
    lab.style.title(left, "Eight steps of $h = 1/8$")
    right.plot(step_sizes, flow_error, label=f"to the flow of $f$: slope {order.slope:.2f}")
    right.plot(step_sizes, tilted_error, label=rf"to the flow of $\tilde f$: slope {tilted_order.slope:.2f}")
    right.set(xscale="log", yscale="log", xlabel="step size $h$", ylabel="distance after one unit of time")
    right.set_xticks(step_sizes, [f"1/{round(1 / size)}" for size in step_sizes])
    right.set_xticks([], minor=True)
    right.legend(loc="lower right")
    lab.style.title(right, "Distance from either road")
lab.figure(
    fig,
    name="two-roads",
    title="Gradient descent leaves its own road and keeps to another",
    caption=(
        "**Figure 1.** Left: contour lines of $f$, its flow, and eight steps of gradient descent from the same point. The steps lie on the flow of "
        r"$\tilde f = f + \frac h4|\nabla f|^2$. Right: root mean square distance for random starts; the slopes are fitted to the three smallest $h$."
    ),
    alt=(
        "Left: two smooth curves run downhill from the top; dots of gradient descent lie on the second one. Right: on logarithmic axes the distance to the "
        "flow of f falls with slope one, the distance to the tilted flow with slope two."
    ),
    data={"h": step_sizes, "flow": flow_error, "tilted flow": tilted_error},
)

# %% [markdown]
# ## 15 Rulers
#
# Six rulers, one gradient. For each we compare the predicted best step with 500 random steps of the same length, for
# random gradients in five dimensions (for the spectral norm, $5\times5$ matrices).

# %% tags=["experiment", "hide-input"]
rulers = {"1": 1, "1.5": 1.5, "2": 2, "3": 3, "inf": np.inf, "spectral": "spectral"}
rng = run.rng("gradients")


def length_of(step, norm):
    """The length of steps, with one axis for the sum to come."""
    if norm == "spectral":
        return torch.linalg.matrix_norm(step, 2)[..., None, None]
    return torch.linalg.vector_norm(step, norm, dim=-1, keepdim=True)


def dual_length(gradient, norm):
    """The dual norm."""
    if norm == "spectral":
        return torch.linalg.matrix_norm(gradient, "nuc")
    partner = {1: np.inf, np.inf: 1}.get(norm) or norm / (norm - 1)
    return torch.linalg.vector_norm(gradient, partner, dim=-1)


largest_gap, best_rival = 0.0, 0.0
for norm in rulers.values():
    shape = (8, 5, 5) if norm == "spectral" else (20, 5)
    inner = (-2, -1) if norm == "spectral" else -1
    gradient = torch.from_numpy(rng.standard_normal(shape)).to(**real)
    won = -(gradient * flows.steepest_direction(gradient, norm)).sum(inner)
    rivals = torch.from_numpy(rng.standard_normal((500, *shape))).to(**real)
    rival = -(gradient * rivals / length_of(rivals, norm)).sum(inner)
    largest_gap = max(largest_gap, float((won / dual_length(gradient, norm) - 1).abs().max()))
    best_rival = max(best_rival, float((rival / won).max()))
claims.measure("C3", {"gap": largest_gap, "best rival": best_rival})

bowl = torch.tensor([[1.0, 0.0], [0.0, 6.0]], **real)
with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.0))
    arrow = torch.tensor([-1.0, -0.55], **real)  # the gradient
    angles = torch.linspace(0, 2 * np.pi, 721, **real)
    circle = torch.stack((angles.cos(), angles.sin()), dim=-1)
    paths = {}
    for colour, (label, norm, metric) in zip(
        lab.style.COLOURS,
        (("ruler 1", 1, None), ("ruler 2", 2, None), (r"ruler $\infty$", np.inf, None), ("metric", 2, bowl)),
        strict=False,
    ):
        lengths = (
            length_of(circle, norm) if metric is None else ((circle @ metric) * circle).sum(-1, keepdim=True).sqrt()
        )
        left.plot(*(circle / lengths).T.cpu(), color=colour, marker="", linestyle="-", label=label)
        best = flows.steepest_direction(arrow, norm, metric=metric).cpu()
        left.annotate("", best.tolist(), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2})
        at = torch.tensor([2.0, 1.0], **real)
        road = [at]
        for _ in range(150):
            direction = flows.steepest_direction(bowl @ at, norm, 0.03, metric=metric)
            if bool(((at + direction) @ bowl @ (at + direction)) >= at @ bowl @ at):
                break
            at = at + direction
            road.append(at)
        paths[label] = torch.stack(road)
        right.plot(*paths[label].T.cpu(), color=colour, marker="", linestyle="-", label=label)
    left.set(xlabel=r"$\delta_1$", ylabel=r"$\delta_2$", aspect="equal", xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
    lab.style.title(left, "All steps of length one, and the best")
    u, v = torch.meshgrid(torch.linspace(-0.3, 2.2, 60), torch.linspace(-0.4, 1.2, 60), indexing="xy")
    right.contour(u, v, (u**2 + 6 * v**2) / 2, levels=10, colors=lab.style.GRID, linewidths=0.8)
    right.set(xlabel="$x_1$", ylabel="$x_2$")
    right.legend(loc="lower right")
    lab.style.title(right, "Small steepest steps in a bowl")
lab.figure(
    fig,
    name="rulers",
    title="Every ruler has its own steepest direction",
    caption=(
        "**Figure 2.** Left: steps of length one for four rulers, and the best of them when the gradient points to the lower left. The metric is the matrix of the bowl on the "
        "right. Right: paths of small steps of constant length, until they cannot go lower. Ruler 1 moves one coordinate at a time, ruler $\\infty$ both equally, and in the "
        "bowl's own metric the way is straight."
    ),
    alt=(
        "Left: a diamond, a circle, a square and an ellipse, each with an arrow from the centre to its best point, all different. Right: four paths from the same start down an elongated "
        "bowl; the one of the metric is a straight line to the bottom."
    ),
    data={"gradient": arrow, "best": torch.stack([flows.steepest_direction(arrow, q) for q in (1, 2, np.inf)])},
)

# %% [markdown]
# ## 16 Get lower, but stay close
#
# The bargain $\frac{1}{2h}(x - x_0)^2 + f(x)$ for a double well, and what a step does to the height on a parabola.

# %% tags=["experiment", "hide-input"]
line = np.linspace(-1.4, 2.2, 400)
well_line = (line**2 - 1) ** 2 / 2
from_here = 1.9
products = np.linspace(0.01, 3, 150)  # a h
explicit_change = products * (products - 2) / 2
implicit_change = -products * (products + 2) / (2 * (1 + products) ** 2)
with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.0))
    left.plot(line, well_line, color=lab.style.INK, marker="", linestyle="-", label="$f$")
    for size in (0.05, 0.2, 1.0):
        values = (line - from_here) ** 2 / (2 * size) + well_line
        (drawn,) = left.plot(line, values, marker="", label=f"bargain, $h = {size}$")
        left.plot(line[values.argmin()], values.min(), marker="o", color=drawn.get_color())
    left.axvline(from_here, color=lab.style.MUTED, linewidth=0.8, linestyle=":")
    left.set(xlabel="$x$", ylabel="height", xlim=(-3.3, 2.4), ylim=(-0.3, 10))
    left.legend(loc="upper left")
    lab.style.title(left, "The bargain struck at $x_0 = 1.9$")
    right.plot(products, explicit_change, marker="", label="explicit step")
    right.plot(products, implicit_change, marker="", label="implicit step")
    right.axhline(0, color=lab.style.MUTED, linewidth=0.8)
    right.set(xlabel="$a h$", ylabel=r"change of $f$, in units of $a\,x_0^2$")
    right.legend(loc="upper left")
    lab.style.title(right, "One step on a parabola")
lab.figure(
    fig,
    name="bargain",
    title="The implicit step goes down for every h, the explicit one up to 2/a",
    caption=(
        "**Figure 3.** Left: a double well and three bargains; their minima (dots) are the implicit steps. The larger $h$, the less it matters to stay close. "
        "Right: the exact change of $f$ in one step on a parabola (D2.6 and D4.8)."
    ),
    alt=(
        "Left: a double well and three curves above it that touch it at the start; their minima move away from the start as h grows. Right: the explicit change falls to minus one half at a h = 1 and "
        "rises above zero at 2; the implicit change falls and stays below zero."
    ),
    data={"ah": products, "explicit": explicit_change, "implicit": implicit_change},
)

# %% [markdown]
# ## 17 One divergence, two rulers
#
# A Gaussian with mean $m$ and standard deviation $s$ is a point of a half-plane. Let it descend
# $\mathrm{KL}(q\,\Vert\,N(0, 1))$. With the Wasserstein ruler it follows [D9.19](#D9.19) and [D9.20](#D9.20), with the
# ruler KL [D9.21](#D9.21) and [D9.22](#D9.22). Same start, same goal, same height: two roads.


# %% tags=["experiment", "hide-input"]
def gaussian_road(rate, start, time, steps=2000):
    """A flow in the half-plane of Gaussians by small midpoint steps; all points."""
    at, dt = torch.tensor(start, dtype=torch.float64), time / steps
    road = [at]
    for _ in range(steps):
        middle = at + dt / 2 * rate(*at)
        at = at + dt * rate(*middle)
        road.append(at)
    return torch.stack(road)


def wasserstein_rate(m, s):
    """Carry the sand."""
    return torch.stack((-m, 1 / s - s))


def fisher_rate(m, s):
    """The natural gradient."""
    return torch.stack((-(s**2) * m, (s - s**3) / 2))


roads = {
    "Wasserstein": gaussian_road(wasserstein_rate, (-3.0, 0.4), 5.0),
    "KL (Fisher)": gaussian_road(fisher_rate, (-3.0, 0.4), 12.0),
}
axis = np.linspace(-5.5, 4, 400)
with lab.style.use() as plt:
    fig, panels = plt.subplots(1, 3, figsize=(7.2, 3.6), width_ratios=[1.15, 1, 1])
    for other in ((-3.0, 1.6), (-2.0, 2.0), (1.8, 0.4), (2.6, 1.8), (0.6, 0.3)):
        panels[0].plot(
            *gaussian_road(wasserstein_rate, other, 5.0, 600).T,
            color=lab.style.PALETTE["blue"],
            marker="",
            linestyle="-",
            linewidth=0.7,
        )
        panels[0].plot(
            *gaussian_road(fisher_rate, other, 20.0, 900).T,
            color=lab.style.PALETTE["orange"],
            marker="",
            linestyle="--",
            linewidth=0.7,
        )
    for panel, (label, road), colour in zip(
        panels[1:], roads.items(), (lab.style.PALETTE["blue"], lab.style.PALETTE["orange"]), strict=True
    ):
        panels[0].plot(*road.T, color=colour, marker="", linestyle="-" if label == "Wasserstein" else "--", label=label)
        height = (road[:, 0] ** 2 + road[:, 1] ** 2 - 1 - 2 * road[:, 1].log()) / 2
        for part, alpha in ((1.0, 1.0), (0.75, 0.85), (0.5, 0.7), (0.25, 0.55), (0.05, 0.4)):
            m, s_ = road[int((height <= part * height[0]).nonzero()[0])]
            panel.plot(
                axis,
                np.exp(-((axis - float(m)) ** 2) / (2 * float(s_) ** 2)) / (float(s_) * np.sqrt(2 * np.pi)),
                color=colour,
                marker="",
                linestyle="-",
                alpha=alpha,
            )
        panel.plot(
            axis,
            np.exp(-(axis**2) / 2) / np.sqrt(2 * np.pi),
            color=lab.style.INK,
            marker="",
            linestyle=":",
            label="target",
        )
        panel.set(xlabel="$x$", ylabel="density", ylim=(0, 1.05))
        panel.legend(loc="upper right")
        lab.style.title(panel, label)
    panels[0].plot([0], [1], color=lab.style.INK, marker="*", markersize=11, linestyle="none")
    panels[0].set(xlabel="mean $m$", ylabel="standard deviation $s$", ylim=(0, 2.3))
    panels[0].legend(loc="upper right")
    lab.style.title(panels[0], "Roads")
lab.figure(
    fig,
    name="two-rulers",
    title="One hill, two rulers, two roads",
    caption=(
        "**Figure 4.** Left: gradient flows of the same divergence in the half-plane of Gaussians, for two rulers; the star is the target. Middle and right: densities on the thick "
        "roads where 100, 75, 50, 25 and 5 % of the divergence are left. With the Wasserstein ruler the narrow bump is soon as wide as the target and then glides. With KL a "
        "narrow bump is a precise statement, hard to change, and stays narrow for longer."
    ),
    alt=(
        "Left: roads from several starts to the star, Wasserstein roads reach the right deviation early and then run level, KL roads run nearly straight. Middle: a bump that widens and glides to the target. Right: "
        "the same bump stays higher and narrower on its way."
    ),
    data={"Wasserstein": roads["Wasserstein"][::200], "KL": roads["KL (Fisher)"][::200]},
)

# %% [markdown]
# ## 18 One density, three machines
#
# Now a target that is no Gaussian: the double well $V = \frac34(x^2 - 1)^2$, and a start deep in the right valley,
# $N(1.5, 0.2^2)$. Three machines should make the same density. The first solves the Fokker–Planck equation on a grid.
# The second lets particles walk at random by Langevin's rule. The third knows no randomness: it makes JKO steps with
# the quantiles.


# %% tags=["experiment", "hide-input"]
def well(x):
    """The double well."""
    return 0.75 * (x**2 - 1) ** 2


def well_score(x):
    """The score of exp(-V)."""
    return -3 * x * (x**2 - 1)


cells = run.pick(quick=1600, full=3200)
grid = torch.linspace(-4, 4, cells + 1, **real)
width = 8 / cells
start_density = torch.exp(-((grid - 1.5) ** 2) / (2 * 0.2**2))
start_density = start_density / (start_density.sum() * width)
target_density = torch.exp(-well(grid))
target_density = target_density / (target_density.sum() * width)
times = torch.cat((torch.linspace(0.01, 1, 100, **real), torch.linspace(1.1, 10, 90, **real)))
evolved = torch.cat([flows.fokker_planck_evolve(start_density, well(grid), width, part) for part in times.split(20)])
at_one = evolved[99]

# the divergence, and the mean squared velocity on the midpoints of the grid
ratio_log = torch.log((evolved / target_density).clamp(min=1e-300))
divergence = (evolved * ratio_log).sum(-1) * width
inner = (evolved > 1e-12 * evolved.amax(-1, keepdim=True)).double()
between = (evolved[:, 1:] + evolved[:, :-1]) / 2 * inner[:, 1:] * inner[:, :-1]
information = (between * (ratio_log.diff(dim=-1) / width).square()).sum(-1) * width
rise_of_divergence = float(divergence.diff().amax())

count = max(500, run.pick(quick=20_000, full=1_000_000) // shrink)
bins = torch.linspace(-3, 3, 25, **real)
mass_below = torch.cat((torch.zeros(1, **real), ((at_one[1:] + at_one[:-1]) / 2 * width).cumsum(0)))
expected = torch.from_numpy(np.diff(np.interp(bins.cpu(), grid.cpu(), mass_below.cpu()))).to(**real)
variation, snapshots = {}, {}
for size in (0.02, 0.005, 0.00125):
    generator = run.generator("noise", round(1e5 * size), device=run.device)
    walkers = 1.5 + 0.2 * torch.randn(count, generator=generator, **real)
    for step in range(1, round(1 / size) + 1):
        walkers = flows.langevin_step(walkers, well_score, size, generator=generator)
        if size == 0.005 and step in (10, 50, 200):
            snapshots[step * size] = walkers
    share = torch.histc(walkers.clamp(-3, 3), 24, -3, 3) / count
    variation[size] = float((share - expected).abs().sum() / 2)

particles = max(50, run.pick(quick=400, full=3000) // shrink)
levels = (torch.arange(particles, **real) + 0.5) / particles


def start_quantiles():
    """The quantiles of the start."""
    return 1.5 + 0.2 * np.sqrt(2) * torch.erfinv(2 * levels - 1)


true_quantiles = torch.from_numpy(np.interp(levels.cpu(), mass_below.cpu(), grid.cpu())).to(**real)
jko_sizes = np.array([0.2, 0.1, 0.05, 0.025])
jko_error, jko_road = [], None
for size in jko_sizes:
    sand = [start_quantiles()]
    for _ in range(round(1 / size)):
        sand.append(flows.jko_quantile(sand[-1], well, float(size)))
    jko_error.append(float(flows.wasserstein2_1d(sand[-1], true_quantiles)))
    if size == 0.05:
        jko_road = torch.stack(sand)
jko_order = lab.slope(np.log(jko_sizes), np.log(jko_error))
claims.measure("C6", {"order": jko_order})
claims.measure(
    "C9",
    {"total variation": max(variation[0.005], variation[0.00125]), "largest rise": rise_of_divergence},
)

with lab.style.use() as plt:
    fig, panels = plt.subplots(1, 3, figsize=(7.2, 3.7), sharey=True)
    for panel, when in zip(panels, (0.05, 0.25, 1.0), strict=True):
        panel.hist(
            snapshots[when].cpu(), bins=80, range=(-2.5, 2.5), density=True, color=lab.style.GRID, label="Langevin"
        )
        panel.plot(
            grid.cpu(),
            evolved[round(100 * when) - 1].cpu(),
            color=lab.style.PALETTE["blue"],
            marker="",
            linestyle="-",
            label="Fokker–Planck",
        )
        sand = jko_road[round(when / 0.05)]
        every = max(1, particles // 40)
        coarse = sand[::every]
        panel.plot(
            ((coarse[1:] + coarse[:-1]) / 2).cpu(),
            (every / particles / coarse.diff()).cpu(),
            color=lab.style.PALETTE["orange"],
            marker="o",
            markersize=3,
            linestyle="none",
            label="JKO, $h = 0.05$",
        )
        panel.plot(
            grid.cpu(), target_density.cpu(), color=lab.style.INK, marker="", linestyle=":", linewidth=1, label="target"
        )
        panel.set(xlabel="$x$", xlim=(-2.5, 2.5))
        lab.style.title(panel, f"$t = {when}$")
    panels[0].set_ylabel("density")
    panels[0].legend(loc="upper left")
lab.figure(
    fig,
    name="three-machines",
    title="Noise, an equation and quantiles make the same density",
    caption=(
        "**Figure 5.** A density that starts in the right valley of a double well, at three times. Grey: a histogram of particles of Langevin's walk. Blue: the Fokker–Planck "
        "equation. Dots: JKO steps of $h = 0.05$ on quantiles, which lag a little behind, as implicit steps do. Dotted: the target."
    ),
    alt=(
        "Three panels at times 0.05, 0.25 and 1. A narrow bump near 1.5 moves towards 1, widens and begins to leak into the left valley. Histogram, curve and dots agree in each panel; the "
        "dotted target has two equal bumps."
    ),
    data={"x": grid[::40], "t=0.05": evolved[4, ::40], "t=0.25": evolved[24, ::40], "t=1": evolved[99, ::40]},
)

# %% [markdown]
# How well do they agree, and does the divergence fall at the rate that theory says?

# %% tags=["experiment", "hide-input"]
fall = -(divergence[2:100] - divergence[:98]) / 0.02
with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.0))
    left.plot(jko_sizes, jko_error, linestyle="none", marker="o", label=f"JKO: slope {jko_order.slope:.2f}")
    left.plot(
        jko_sizes,
        jko_error[-1] * jko_sizes / jko_sizes[-1],
        color=lab.style.MUTED,
        marker="",
        linestyle=":",
        label="slope 1",
    )
    left.set(xscale="log", yscale="log", xlabel="step $h$", ylabel="$W_2$ to the equation at $t = 1$")
    left.set_xticks(jko_sizes, [f"{size:g}" for size in jko_sizes])
    left.set_xticks([], minor=True)
    left.legend(loc="upper left")
    lab.style.title(left, "JKO steps")
    right.plot(times[:100].cpu(), divergence[:100].cpu(), marker="", label="divergence $K$")
    right.plot(times[1:99].cpu(), fall.cpu(), marker="", label=r"$-\dot K$, from differences")
    right.plot(
        times[:100:6].cpu(),
        information[:100:6].cpu(),
        linestyle="none",
        marker="o",
        markersize=4,
        label=r"$\int q\,|\nabla\log\frac{q}{p}|^2$",
    )
    right.set(yscale="log", xlabel="time $t$", ylabel="nats, nats per unit of time")
    right.legend(loc="upper right")
    lab.style.title(right, "Height and squared slope")
lab.figure(
    fig,
    name="orders",
    title="JKO steps have order one, and the divergence falls as fast as the velocity says",
    caption=(
        "**Figure 6.** Left: distance of JKO quantiles from the Fokker–Planck equation at $t = 1$. Right: the divergence in the double well, its rate of fall, and the mean squared velocity, which "
        "theory says is the same (D10.1)."
    ),
    alt=(
        "Left: four points on a line of slope near one on logarithmic axes. Right: the divergence falls from about 2; the dots of the squared velocity lie on the curve of its rate of fall."
    ),
    data={"h": jko_sizes, "W2": jko_error, "t": times, "divergence": divergence, "information": information},
)
print(
    "Total variation between walkers and equation:",
    ", ".join(f"h = {size:g}: {lab.approx(value, 2)}" for size, value in variation.items()),
)

# %% [markdown]
# ## 19 Five divergences race on a ring
#
# To see the mobilities of section 11 at work, put densities on a ring. The target has one hill; the start is random.
# All five flows use the same target and start, and a scheme that moves mass between neighbours with the velocity
# $-\nabla(f - r f')$.

# %% tags=["experiment", "hide-input"]
sites = 64
ring = torch.arange(sites, **real) / sites
spacing = 1 / sites
ring_target = torch.exp(0.9 * torch.cos(2 * np.pi * (ring - 0.65)))
ring_target = ring_target / (ring_target.sum() * spacing)
waves = run.rng("ring").standard_normal(2)
angle_of_start = run.rng("ring angle").uniform(-0.08, 0.08)
ring_start = torch.exp(
    0.8 * torch.cos(2 * np.pi * (ring - 0.2 - angle_of_start))
    + 0.15 * float(np.clip(waves[0], -2, 2)) * torch.cos(4 * np.pi * ring)
    + 0.15 * float(np.clip(waves[1], -2, 2)) * torch.sin(4 * np.pi * ring)
)
ring_start = ring_start / (ring_start.sum() * spacing)
first_variation = {  # f(r) - r f'(r), from log r
    "reverse_kl": lambda s: -s,
    "kl": lambda s: -s.exp(),
    "chi2": lambda s: -(2 * s).exp(),
    "hellinger": lambda s: -(s / 2).exp(),
    "js": lambda s: -torch.nn.functional.softplus(s) / 2,
}
small, rounds = 2e-6, max(1000, 10_000 // shrink)
state = ring_start.expand(5, sites).clone()
pictures, heights_of, powers = {}, [], []
for step in range(rounds + 1):
    log_ratio = torch.log(ring_target / state)
    field = torch.stack([first_variation[name](log_ratio[row]) for row, name in enumerate(flows.DIVERGENCES)])
    speed_between = -(torch.roll(field, -1, 1) - field) / spacing
    carried = (torch.roll(state, -1, 1) + state) / 2 * speed_between
    if step % 20 == 0:
        heights_of.append(
            torch.stack(
                [
                    flows.f_divergence(name, log_ratio[row], state[row] * spacing)
                    for row, name in enumerate(flows.DIVERGENCES)
                ]
            )
        )
        powers.append((carried * speed_between).sum(1) * spacing)
    if step in (0, rounds // 10, rounds):
        pictures[step] = state.clone()
    state = state - small * (carried - torch.roll(carried, 1, 1)) / spacing
heights_of, powers = torch.stack(heights_of), torch.stack(powers)
fall_of = -(heights_of[2:] - heights_of[:-2]) / (40 * small)
balance = (fall_of / powers[1:-1] - 1).abs()[len(fall_of) // 20 :]
claims.measure("C8", {"largest rise": float(heights_of.diff(dim=0).amax()), "worst balance": float(balance.amax())})

labels = ("reverse KL", "forward KL", r"$\chi^2$", "Hellinger", "Jensen–Shannon")
with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.0))
    left.plot(ring.cpu(), ring_start.cpu(), color=lab.style.MUTED, marker="", linestyle="-", label="start")
    for row, label in enumerate(labels):
        left.plot(ring.cpu(), pictures[rounds // 10][row].cpu(), marker="", label=label)
        right.plot(
            np.arange(len(heights_of)) * 20 * small,
            (heights_of[:, row] / heights_of[0, row]).cpu(),
            marker="",
            label=label,
        )
    for drawn in left.lines[1:]:
        drawn.set_label("_")
    left.plot(ring.cpu(), ring_target.cpu(), color=lab.style.INK, marker="", linestyle=":", label="target")
    left.set(xlabel="place on the ring", ylabel="density")
    left.set_ylim(0, 2.9)
    left.legend(loc="upper right")
    lab.style.title(left, f"Densities at $t = {small * (rounds // 10):g}$")
    right.set(yscale="log", xlabel="time", ylabel="divergence, relative to the start", ylim=(0.004, 1.3))
    right.legend(loc="lower left")
    lab.style.title(right, "Each flow's own divergence")
lab.figure(
    fig,
    name="ring",
    title="Five divergences, one start, one target: five speeds",
    caption=(
        "**Figure 7.** Wasserstein gradient flows of five divergences on a ring, from one random start to one target. Left: the densities after a tenth of the time. Right: the divergence "
        r"that each flow descends, relative to its start. $\chi^2$ is the fastest here, with mobility $2r^2$, and Jensen–Shannon the slowest."
    ),
    alt=(
        "Left: a start with its hill on the left, a dotted target with its hill on the right, and five curves in between. Right: five falling curves on a logarithmic axis, steepest for chi squared, flattest for Jensen–Shannon."
    ),
    data={
        "t": np.arange(len(heights_of)) * 20 * small,
        **{name: heights_of[:, row] for row, name in enumerate(flows.DIVERGENCES)},
    },
)

# %% [markdown]
# ## 20 The same flow with and without noise
#
# The particle equation $\dot x = \nabla\log p - \nabla\log q_t$ needs the score of $q_t$, which nobody knows. The post
# calls it formal for that reason. But $q_t$ is where the particles are. So estimate it: put a small Gaussian on every
# particle and take the score of the sum. (That score is a softmax attention of the particles to each other; the library
# computes it so.) The target is $0.3\,N(-2, 0.6^2) + 0.7\,N(1.5, 0.8^2)$, the start $N(0, 0.5^2)$.

# %% tags=["experiment", "hide-input"]
weights_of, centres, spreads = (torch.tensor(values, **real) for values in ((0.3, 0.7), (-2.0, 1.5), (0.6, 0.8)))


def mixture_score(x):
    """The score of the mixture."""
    x = x.reshape(-1, 1)
    logs = weights_of.log() - ((x - centres) / spreads) ** 2 / 2 - spreads.log()
    return (torch.softmax(logs, dim=1) * (centres - x) / spreads**2).sum(1)


fine = torch.linspace(-6, 6, 24_001, **real)
below = (weights_of * (1 + torch.erf((fine[:, None] - centres) / (spreads * np.sqrt(2)))) / 2).sum(1)
crowd = max(40, run.pick(quick=300, full=4000) // shrink)
exact_quantiles = torch.from_numpy(np.interp((np.arange(crowd) + 0.5) / crowd, below.cpu(), fine.cpu())).to(**real)
bandwidth, pace, marches = 0.25, 0.02, 2000
runs = []
for k in range(3):
    generator = run.generator("crowd", k, device=run.device)
    without = with_noise = 0.5 * torch.randn(crowd, generator=generator, **real)
    roads_without, roads_with, distances = [without], [with_noise], []
    for step in range(marches):
        pull = mixture_score(without) - flows.kde_score(without[:, None], without[:, None], bandwidth)[:, 0]
        without = without + pace * pull
        with_noise = flows.langevin_step(with_noise, mixture_score, pace, generator=generator)
        if step % 10 == 9:
            roads_without.append(without)
            roads_with.append(with_noise)
            distances.append(
                [float(flows.wasserstein2_1d(sample, exact_quantiles)) for sample in (without, with_noise)]
            )
    drawn = torch.where(torch.rand(crowd, generator=generator, **real) < 0.3, 0, 1)
    independent = centres[drawn] + spreads[drawn] * torch.randn(crowd, generator=generator, **real)
    runs.append((distances, float(flows.wasserstein2_1d(independent, exact_quantiles))))
    if k == 0:
        kept_without, kept_with = torch.stack(roads_without), torch.stack(roads_with)
distance_without, distance_with = np.array([r[0] for r in runs]).mean(0).T
claims.measure(
    "C11",
    {
        "W2 without noise": distance_without[-25:].mean(),
        "W2 with noise": distance_with[-25:].mean(),
        "W2 independent": np.mean([r[1] for r in runs]),
    },
)

with lab.style.use() as plt:
    fig, panels = plt.subplots(1, 3, figsize=(7.2, 3.9), width_ratios=[1, 1, 0.9])
    hundred = np.arange(101) * 10 * pace
    for panel, kept, colour, label in zip(
        panels[:2],
        (kept_without, kept_with),
        (lab.style.PALETTE["blue"], lab.style.PALETTE["orange"]),
        ("without noise", "with noise"),
        strict=True,
    ):
        order_of_start = kept[0].argsort()[:: max(1, crowd // 60)]
        panel.plot(
            hundred[:41],
            kept[:41, order_of_start].cpu(),
            color=colour,
            marker="",
            linestyle="-",
            linewidth=0.6,
            alpha=0.7,
        )
        edge = 1.02 * hundred[40]
        density = (weights_of * torch.exp(-(((fine[:, None] - centres) / spreads) ** 2) / 2) / spreads).sum(1)
        panel.plot(
            (edge + 2.5 * density / density.amax()).cpu(),
            fine.cpu(),
            color=lab.style.INK,
            marker="",
            linestyle="-",
            linewidth=1,
        )
        panel.set(xlabel="time $t$", ylabel="$x$", ylim=(-4.5, 4.5))
        lab.style.title(panel, f"Particles {label}")
    clock = (np.arange(len(distance_with)) + 1) * 10 * pace
    panels[2].plot(clock, distance_without, marker="", label="without noise")
    panels[2].plot(clock, distance_with, marker="", label="with noise")
    panels[2].axhline(
        np.mean([r[1] for r in runs]), color=lab.style.MUTED, linewidth=1, linestyle=":", label="independent draws"
    )
    panels[2].set(yscale="log", xlabel="time $t$", ylabel="$W_2$ to the target")
    panels[2].legend(loc="upper right")
    lab.style.title(panels[2], "Distance")
lab.figure(
    fig,
    name="with-and-without",
    title="Without noise the particles glide to their places; with noise they keep wandering",
    caption=(
        "**Figure 8.** Left: paths of particles that follow $\\nabla\\log p - \\nabla\\log q_t$ with an estimated score; the target's density is drawn at the end. Middle: the same with Langevin's "
        "noise. Right: $W_2$ to the target, mean of three runs; dotted, as many independent draws from the target."
    ),
    alt=(
        "Left: smooth paths fan out from zero into two bundles and become level. Middle: jagged paths that cross between the bundles. Right: two falling curves; that without noise ends lower, below the dotted line."
    ),
    data={"t": clock, "without": distance_without, "with": distance_with},
)

# %% [markdown]
# Without noise the particles repel each other and end up spread more evenly than independent draws. So on the line the
# equation is not only formal. The price: the score of a crowd has to be estimated, which gets harder with every
# dimension, and the result carries the blur of the little Gaussians.
#
# ## 21 Two limits: barriers and finite steps
#
# First the promise of section 10. The relaxation rate of the double well $V = \beta(x^2 - 1)^2$ is the smallest
# positive eigenvalue of its Fokker–Planck matrix. And on a target with a true gap, two pieces $[-2, -1]$ and $[1, 2]$,
# we let the equation run from the right piece. Then the variance of Langevin's walk with finite steps.

# %% tags=["experiment", "hide-input"]
coarse_grid = torch.linspace(-2.5, 2.5, 301, **real)
barriers = np.arange(1, 11)
rates = []
for beta in barriers:
    lower, diagonal, upper = flows.fokker_planck_generator(float(beta) * (coarse_grid**2 - 1) ** 2, 5 / 300)
    balanced = torch.sqrt(lower * upper)  # the same matrix, made symmetric
    rates.append(float(-torch.linalg.eigvalsh(flows.tridiagonal_dense(balanced, diagonal, balanced))[-2]))

gap_grid = torch.linspace(-2, 2, 401, **real)
outside = (gap_grid.abs() < 0.995).double()
right_piece = (gap_grid > 0.995).double()
gap_start = right_piece / (right_piece.sum() * 0.01)
gap_target = (1 - outside) / ((1 - outside).sum() * 0.01)
gap_times = torch.tensor([1.0, 10.0, 100.0], **real)
gap_density = flows.fokker_planck_evolve(gap_start, 2000 * outside, 0.01, gap_times)
on_target = gap_target > 0
gap_divergence = [
    float((row * torch.log((row / gap_target).clamp(min=1e-12)))[on_target].sum() * 0.01)
    for row in (gap_start, *gap_density)
]
claims.measure("C10", {"double well": float(divergence[-1]), "gap, relative": gap_divergence[-1] / gap_divergence[0]})

many = max(2000, run.pick(quick=50_000, full=1_000_000) // shrink)
bias_sizes = np.array([0.4, 0.2, 0.1])
variances, deviations = [], []
for size in bias_sizes:
    generator = run.generator("bias", round(100 * size), device=run.device)
    walkers = torch.randn(many, generator=generator, **real)
    for _ in range(round(8 / size)):
        walkers = flows.langevin_step(walkers, torch.neg, float(size), generator=generator)
    exact_variance = 1 / (1 - size / 2)
    variances.append(float(walkers.var()))
    deviations.append(abs(variances[-1] - exact_variance) / (exact_variance * np.sqrt(2 / many)))
claims.measure("C9a", {"largest deviation": max(deviations), "variance at h = 0.4": variances[0]})

with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.0))
    left.plot(barriers, rates, marker="o", label="relaxation rate")
    kramers = 8 * np.sqrt(2) * barriers / (2 * np.pi) * np.exp(-barriers.astype(float)) * 1.0
    left.plot(
        barriers,
        kramers,
        color=lab.style.MUTED,
        marker="",
        linestyle=":",
        label=r"Kramers' law $\frac{4\sqrt{2}}{\pi}\,\beta\,e^{-\beta}$",
    )
    left.set(yscale="log", xlabel=r"height $\beta$ of the barrier", ylabel="rate")
    left.legend(loc="lower left")
    lab.style.title(left, "Time to cross a barrier")
    curve = np.linspace(0, 0.5, 100)
    right.plot(curve, 1 / (1 - curve / 2), color=lab.style.INK, marker="", linestyle="-", label="$1/(1 - h/2)$  (D12)")
    right.errorbar(
        bias_sizes,
        variances,
        yerr=2 * np.array(variances) * np.sqrt(2 / many),
        linestyle="none",
        marker="o",
        color=lab.style.PALETTE["orange"],
        label="particles",
    )
    right.axhline(1, color=lab.style.MUTED, linewidth=1, linestyle=":", label="target")
    right.set(xlabel="step $h$", ylabel="variance")
    right.legend(loc="upper left")
    lab.style.title(right, "Langevin with finite steps")
lab.figure(
    fig,
    name="two-limits",
    title="Barriers slow the flow exponentially, and finite steps miss the target",
    caption=(
        r"**Figure 9.** Left: the rate at which the flow in $V = \beta(x^2-1)^2$ forgets its start, and the law of Kramers for high barriers. Right: variance of Langevin's walk for the target $N(0, 1)$, with bars of "
        "two standard errors, against the exact formula."
    ),
    alt=(
        "Left: the relaxation rate falls along a straight line on a logarithmic axis as the barrier grows, next to the dotted law of Kramers. Right: the variance rises with the step along the exact curve, above the dotted line at 1."
    ),
    data={"barrier": barriers, "rate": rates, "h": bias_sizes, "variance": variances},
)
print(
    "Divergence on the target with a gap at t = 0, 1, 10, 100:",
    ", ".join(lab.approx(value, 3) for value in gap_divergence),
)

# %% [markdown]
# ## 22 More dimensions
#
# A full run goes where no grid and no formula for quantiles can follow: Langevin in 100 dimensions; particles with and
# without noise on a ring of eight Gaussians in the plane; and JKO steps in the plane, where each step is a small
# network that learns the map from old to new places. Its bargain per particle is $\frac{1}{2h}|T(x) - x|^2 + V(T(x)) -
# \log\det DT(x)$.


# %% tags=["experiment", "hide-input"]
def many_dimensions():
    """Langevin for a Gaussian target with eigenvalues from 0.1 to 10."""
    dims, size, generator = 100, 0.02, run.generator("dimensions", device=run.device)
    walkers_count = max(2000, 1_000_000 // shrink)
    precision = torch.logspace(-1, 1, dims, **real)
    at = torch.randn(walkers_count, dims, generator=generator, dtype=torch.float32, device=run.device)
    variances_then, fall_of_kl = torch.ones(dims, **real), []
    zero, goal = torch.zeros(dims, **real), torch.diag(1 / precision)
    slope_at = precision.float()
    rounds_left = max(60, 400 // (1 if shrink == 1 else 4))
    for step in range(1, rounds_left + 1):
        at = flows.langevin_step(at, lambda x: -slope_at * x, size, generator=generator)
        variances_then = (1 - size * precision) ** 2 * variances_then + 2 * size
        if step % 20 == 0:
            mean = at.mean(0).double()
            covariance = torch.cov(at.T).double()
            fall_of_kl.append(float(flows.gaussian_kl(mean, covariance, zero, goal)))
    found = at.double().var(0)
    worst = ((found - variances_then) / (variances_then * np.sqrt(2 / walkers_count))).abs().amax()
    claims.measure("C9b", {"largest deviation": worst, "largest rise": float(np.diff(fall_of_kl).max())})


def ring_of_eight():
    """Particles with and without noise on eight Gaussians in the plane."""
    crowd_size = max(100, 20_000 // shrink)
    corners = torch.arange(8, **real) * np.pi / 4
    middles = 3 * torch.stack((corners.cos(), corners.sin()), dim=-1).float()
    wide, blur = 0.5, 0.25

    def score(x):
        pull = middles - x[:, None, :]
        return (torch.softmax(-(pull**2).sum(-1) / (2 * wide**2), dim=1)[..., None] * pull).sum(1) / wide**2

    generator = run.generator("ring of eight", device=run.device)
    silent = noisy = 1.5 * torch.randn(crowd_size, 2, generator=generator, device=run.device)
    drawn = middles[torch.randint(8, (crowd_size,), generator=generator, device=run.device)]
    drawn = drawn + wide * torch.randn(crowd_size, 2, generator=generator, device=run.device)
    lines = torch.nn.functional.normalize(torch.randn(64, 2, generator=generator, device=run.device), dim=1)
    record = []
    for step in range(max(200, 2000 // shrink)):
        silent = silent + 0.02 * (score(silent) - flows.kde_score(silent, silent, blur))
        noisy = flows.langevin_step(noisy, score, 0.02, generator=generator)
        if step % 20 == 19:
            record.append([float(flows.sliced_wasserstein2(x, drawn, projections=lines)) for x in (silent, noisy)])
    record = np.array(record)
    claims.measure("C11a", {"without noise": record[-5:, 0].mean(), "with noise": record[-5:, 1].mean()})
    return silent, noisy, record


class PlaneMap(torch.nn.Module):
    """x + network(x) in the plane, with the logarithm of its determinant."""

    def __init__(self, hidden, generator):
        super().__init__()
        sizes = (2, hidden, hidden, 2)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / layer.in_features**0.5)
                layer.bias.zero_()
            self.layers[-1].weight.mul_(0.01)

    def forward(self, x):
        """New places, and log det."""
        value, tangent = x, torch.eye(2, device=x.device).expand(len(x), 2, 2)
        for layer in self.layers[:-1]:
            value = torch.tanh(layer(value))
            tangent = (tangent @ layer.weight.T) * (1 - value**2)[:, None, :]
        jacobian = torch.eye(2, device=x.device) + tangent @ self.layers[-1].weight.T
        determinant = jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0]
        return x + self.layers[-1](value), torch.log(determinant.clamp(min=1e-6))


def jko_in_the_plane():
    """Ten JKO steps with networks, in a double well that is turned by 30 degrees."""
    size, sand_count = 0.1, max(400, 20_000 // shrink)
    turn = torch.tensor(
        [[np.cos(np.pi / 6), -np.sin(np.pi / 6)], [np.sin(np.pi / 6), np.cos(np.pi / 6)]],
        dtype=torch.float32,
        device=run.device,
    )
    generator = run.generator("plane", device=run.device)

    def height(x):
        u, v = (x @ turn).unbind(-1)
        return well(u) + v**2 / 2

    start_at = torch.tensor([1.5, 1.0], device=run.device)
    sand = (start_at + 0.2 * torch.randn(sand_count, 2, generator=generator, device=run.device)) @ turn.T
    lines = torch.nn.functional.normalize(torch.randn(64, 2, generator=generator, device=run.device), dim=1)
    distances, road = [], [sand]
    for step in range(1, 11):
        network = PlaneMap(64, run.generator("plane network", step)).to(run.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        rounds_here = max(60, 1500 // shrink)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds_here)
        for _ in range(rounds_here):
            batch = sand[torch.randint(sand_count, (min(4096, sand_count),), generator=generator, device=run.device)]
            moved, log_det = network(batch)
            loss = (((moved - batch) ** 2).sum(1) / (2 * size) + height(moved) - log_det).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            sand = network(sand)[0]
        road.append(sand)
        # exact samples: the double well across, an Ornstein–Uhlenbeck process along
        now = flows.fokker_planck_evolve(start_density, well(grid), width, step * size)
        below_now = np.cumsum((now * width).cpu().numpy())
        across = torch.from_numpy(
            np.interp(torch.rand(sand_count, generator=generator, **real).cpu(), below_now, grid.cpu() + width / 2)
        ).to(**real)
        spread = np.sqrt(1 + (0.2**2 - 1) * np.exp(-2 * step * size))
        along = np.exp(-step * size) + spread * torch.randn(sand_count, generator=generator, **real)
        exact_sand = torch.stack((across, along), dim=-1).float() @ turn.T
        distances.append(float(flows.sliced_wasserstein2(sand, exact_sand, projections=lines)))
    claims.measure("C6a", {"largest distance": max(distances), "last distance": distances[-1]})
    return road, exact_sand


if run.scale == "full":
    many_dimensions()
    silent, noisy, ring_record = ring_of_eight()
    plane_road, plane_exact = jko_in_the_plane()
    with lab.style.use() as plt:
        fig, panels = plt.subplots(2, 2, figsize=(7.2, 6.8))
        for panel, sample, text, colour in zip(
            panels.flat,
            (silent, noisy, plane_road[3], plane_road[-1]),
            ("Ring: without noise", "Ring: Langevin", "JKO with networks: $t = 0.3$", "JKO with networks: $t = 1$"),
            lab.style.COLOURS,
            strict=False,
        ):
            panel.scatter(*sample[:3000].cpu().T, s=2, alpha=0.4, color=colour)
            panel.set(xlabel="$x$", ylabel="$y$", aspect="equal")
            lab.style.title(panel, text)
    lab.figure(
        fig,
        name="plane",
        title="Flows of particles in the plane",
        caption="**Figure 10.** Above: eight Gaussians on a ring, sampled without and with noise. Below: a density that flows into a turned double well by JKO steps, each a trained network.",
        alt="Four clouds of particles: two rings of eight spots, and a spot that spreads along a turned double well.",
        data={"sliced W2 on the ring": ring_record},
    )
else:
    print("These three are run in a full run only.")

# %% [markdown]
# ## 23 The claims

# %% tags=["experiment"]
claims.table()

# %% [markdown]
# ## 24 What to keep
#
# A gradient step is a bargain, *get lower but stay close*, and the ruler for "close" decides which way is steepest:
# minus the gradient, its signs, the natural gradient, or, for densities with the Wasserstein ruler, the velocity
# $-\nabla\frac{\delta\mathcal F}{\delta q}$. With $\mathrm{KL}(q\,\Vert\,p)$ this flow is the Fokker–Planck equation,
# and because $q\,\nabla\log q = \nabla q$ one half of the velocity can be replaced by noise, which is Langevin's walk.
# It arrives exponentially fast under a logarithmic Sobolev inequality, slowly over barriers, and not at all across a
# gap; and with finite steps the walk ends slightly beside the target, while the JKO step does not.
#
# ### Exercises
#
# **1. Heat.** Drop the target: let $\mathcal F[q] = \int q\log q\,dx$ alone. Which equation is its Wasserstein gradient
# flow, and how does the variance of a Gaussian grow?
#
# <details><summary>Solution</summary>
#
# The first variation is $\log q + 1$ by [D6.3](#D6.3), so [D7](#D7) reads $\partial_t q = (q\,(\log q)')' = q''$: the
# heat equation. Heat flow is the steepest ascent of entropy. A Gaussian with variance $v_0 + 2t$ solves it.
#
# </details>

# %% tags=["hide-cell"]
v0 = Symbol("v_0", positive=True)
heat = Function("u", positive=True)
D.domain[v0] = Interval(0.3, 2)
display(
    D.exact(
        "D13.1",
        eq(Derivative(line_dens(x) * Derivative(log(line_dens(x)) + 1, x), x), Derivative(line_dens(x), x, x)),
        functions=examples,
        domain=near,
        by="the flow of the negative entropy",
    ),
    D.define(
        "D13.2",
        eq(heat(x, t), exp(-(x**2) / (2 * (v0 + 2 * t))) / sqrt(2 * pi * (v0 + 2 * t))),
        by="a Gaussian with variance $v_0 + 2t$",
    ),
    D.exact(
        "D13.3",
        eq(Derivative(heat(x, t), t) / heat(x, t), Derivative(heat(x, t), x, x) / heat(x, t)),
        by="it solves the heat equation",
    ),
)

# %% [markdown]
# **2. Sand that pushes.** Take $\mathcal F[q] = \int q^2\,dx$. Show that the flow is $\partial_t q = (q^2)''$, and that
# it has a solution that stays inside a finite interval, $q = t^{-1/3}\bigl(c - \tfrac{1}{12}x^2 t^{-2/3}\bigr)$ where
# this is positive. Why does heat not do that?
#
# <details><summary>Solution</summary>
#
# The first variation is $2q$, so $\partial_t q = (q\,(2q)')' = (q^2)''$, the porous medium equation. Its mobility is
# $q$ itself: where there is no sand, nothing spreads. For heat the velocity $-(\log q)'$ grows without bound where $q$
# is small, and makes up for the lack of sand. The next cell checks the solution of Barenblatt inside its interval.
#
# </details>

# %% tags=["hide-cell"]
level_c = Symbol("c", positive=True)
barenblatt = Function("u_2", real=True)
D.domain[level_c] = Interval(0.5, 2)
display(
    D.exact(
        "D13.4",
        eq(Derivative(line_dens(x) * Derivative(2 * line_dens(x), x), x), Derivative(line_dens(x) ** 2, x, x)),
        functions=examples,
        domain=near,
        by="the flow of $\\int q^2$",
    ),
    D.define(
        "D13.5",
        eq(barenblatt(x, t), (level_c - x**2 / (12 * t ** Rational(2, 3))) / t ** Rational(1, 3)),
        by="Barenblatt's solution",
    ),
    D.exact(
        "D13.6",
        eq(Derivative(barenblatt(x, t), t), Derivative(barenblatt(x, t) ** 2, x, x)),
        by="it solves the equation inside its interval",
    ),
)

# %% [markdown]
# **3. Ten percent.** Langevin's walk for $N(0, 1)$ may have a variance at most 10 % too large. Which steps are allowed?
#
# <details><summary>Solution</summary>
#
# By [D12](#D12) we need $1/(1 - h/2) \le 1.1$, so $h \le 2/11$.
#
# </details>

# %% tags=["hide-cell"]
D.exact("D13.7", eq(Subs(1 / (1 - h / 2), h, Rational(2, 11)), Rational(11, 10)), by="the largest step")

# %% [markdown]
# ### Where the idea went since
#
# Santambrogio's overview ([arXiv 1609.03890](https://arxiv.org/abs/1609.03890)) is among the references of the post.
# How far Langevin with finite steps is from its target, in terms of the logarithmic Sobolev inequality, is the theme of
# Vempala and Wibisono ([arXiv 1903.08568](https://arxiv.org/abs/1903.08568)). Stein variational gradient descent
# ([arXiv 1608.04471](https://arxiv.org/abs/1608.04471)) smooths the velocity instead of the density. And score-based
# diffusion models ([arXiv 2011.13456](https://arxiv.org/abs/2011.13456)) use the trade of section 8 in both directions:
# noise to learn from, and a velocity to sample with.
