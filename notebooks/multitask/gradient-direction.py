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
#     archive: 8896
#     title_zh: 多任务学习漫谈（二）：行梯度之事
#     title_en: "Multi-task learning (2): acting on gradients"
#     date: 2022-02-08
#     prerequisites: [loss-weighting]
#     minutes: {quick: 1, full: 20}
# ---

# %% [markdown]
# # Which step makes no task worse?
#
# *Multi-task learning: acting on gradients* · <span lang="zh">多任务学习漫谈（二）：行梯度之事</span>
#
# > **Post** [<span lang="zh">多任务学习漫谈（二）：行梯度之事</span>](https://kexue.fm/archives/8896) by Su Jianlin
# > (<span lang="zh">苏剑林</span>), 2022-02-08. It continues
# > [<span lang="zh">多任务学习漫谈（一）：以损失之名</span>](https://kexue.fm/archives/8870) of 2022-01-18. This chapter is an
# > independent work, in words of its own.
#
# **The question.** One network serves several tasks. Each task $i$ has a loss $L_i$ and a gradient $g_i$, and each gradient
# wants another step. Is there a step that makes no task worse? How is it found, what does it cost for a large network, and is
# the published shortcut for shared encoders correct?
#
# **The answer in one sentence.** A small step along the shortest vector in the convex hull of the gradients lowers every loss, and
# that vector is zero only where no common descent exists; it is found exactly from the small matrix of inner
# products; the shortcut through a shared representation may raise a loss, even where its theorem says that it cannot.
#
# **Abstract.** We prove the theorem of the shortest vector for any number of tasks, with two identities and nothing else, and
# turn it into a theorem about steps of finite size. Then we follow the post's iteration: it is a Frank–Wolfe method, and it
# converges at a rate that we prove. We give the shortcut its due: a counterexample with two parameters, and the half of its
# theorem that is true. At last three tasks on one trunk show how often each rule makes a task worse, and what the unit of
# a loss does.
#
# <p lang="zh"><b>摘要。</b>本章用两个恒等式对任意多个任务证明：各任务梯度凸包中的最短向量是公共下降方向，且当且仅当帕累托稳定时为零；并将其推广为有限步长的定理。接着证明原文的平均迭代即Frank–Wolfe算法及其收敛速度，给出MGDA-UB定理的反例以及其中正确的一半，最后在共享编码器的三任务实验中比较各种加权规则。</p>

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
from sympy import Derivative, Function, Matrix, O, Rational, Sum, Symbol, cos, exp, harmonic, log, oo, pi, sin, sqrt

from kexue_lib.derive import Derivation, Integer, Interval, MaxOver, eq, ge, gt, le, lt, tends

# %% [markdown]
# ## 1 What a step does to a loss
#
# Let $\theta$ be the parameters that all tasks share. We look for a vector $u$ and take the step $-\eta u$ with a small rate
# $\eta > 0$. To first order the loss of a task with gradient $g$ changes by $-\eta\langle g, u\rangle$. So the demand "no task
# gets worse" reads $\langle g_i, u\rangle \ge 0$ for all $i$.
#
# First order means: for small steps. How small? Suppose that the gradient of $L$ changes by at most $\beta$ times the distance
# ("$L$ is $\beta$-smooth"). Then a parabola bounds the change. Write $A = \|u\|^2$ and $\langle g, u\rangle = A + s$.
#
# Every numbered line below was checked by the machine that made this page, or is marked as defined, assumed or cited. The
# badge says which, and how; the code that did it is one click away.

# %% tags=["hide-input"]
eta, beta, A = sp.symbols("eta beta A", positive=True)
s, t, z = sp.symbols("s t z", nonnegative=True)
change, parabola = Function("\\Delta_L", real=True), Function("P", real=True)
D = Derivation("gradient-direction")
display(
    D.define(
        "D1.1",
        eq(parabola(eta), -eta * (A + s) + beta * eta**2 * A / 2),
        by="first order, and the most that a curvature $\\beta$ can add",
    ),
    D.cite(
        "D1.2",
        le(change(eta), parabola(eta)),
        by="the change of a $\\beta$-smooth loss (descent lemma; Nesterov 2004, Lemma 1.2.3)",
    ),
    D.exact(
        "D1.3",
        eq(parabola(2 / (beta * (1 + t))), -2 / (beta * (1 + t)) * (s + A * t / (1 + t))),
        by="a rate $\\eta = \\frac{2}{\\beta(1+t)}$ with $t \\ge 0$, that is, any $\\eta \\le 2/\\beta$",
    ),
    D.exact("D1.4", ge(z, 0), tight={z: 0}, by="a number that is not negative; put $s$ and $t$ for it"),
)
D.exact(
    "D1",
    le(parabola(2 / (beta * (1 + t))), 0),
    made=D["D1.4"]
    .subs(z, s)
    .multiply(-2 / (beta * (1 + t)))
    .add(D["D1.4"].subs(z, t).multiply(-2 * A / (beta * (1 + t) ** 2)))
    .add(D["D1.3"]),
    by="with $s \\ge 0$ the loss does not increase",
)

# %% [markdown]
# So if a direction satisfies $\langle g_i, u\rangle \ge \|u\|^2$ for every task, then **no loss increases for any rate up to
# $2/\max_i\beta_i$**. The sheer sign of $\langle g_i, u\rangle$ would not give that: the bound on the rate would depend on how
# small the inner product is. Section 4 finds a direction with this stronger property.
#
# ## 2 When nothing is left to gain
#
# A point is *Pareto optimal* if no other point is at least as good for every task and better for one. It is *Pareto
# stationary* if no direction lowers all losses to first order, that is, if no $u$ has $\langle g_i, u\rangle > 0$ for all $i$.
# The strict sign matters. The post asks for a non-zero $u$ with $\langle g_i, u\rangle \ge 0$; but such a $u$ always exists
# when there are more parameters than tasks: take it at right angles to all gradients. For two tasks and three parameters it
# is the cross product (unless the gradients are parallel).

# %% tags=["hide-input"]
g1 = Matrix(sp.symbols("a_1:4", real=True))
g2 = Matrix(sp.symbols("b_1:4", real=True))
right = g1.cross(g2)
display(
    D.exact("D2.1", eq(g1.dot(right), 0), by="right angles to the first gradient"),
    D.exact("D2.2", eq(g2.dot(right), 0), by="and to the second one: no loss changes to first order"),
)

# %% [markdown]
# Which points are stationary? Those where some weighted mean of the gradients is zero. In one direction that is plain: let
# $\alpha_i \ge 0$ be weights with sum one and $u = \sum_i\alpha_i g_i$. For any direction $v$ the mean of the inner products is
# the inner product of the mean. If $u = 0$, they cannot all be positive. The other direction follows in section 4.
#
# Let $d$ be the number of parameters and $n$ the number of tasks.

# %% tags=["hide-input"]
n, d = sp.symbols("n d", integer=True, positive=True)
i, j, k = sp.symbols("i j k", integer=True, positive=True)
alpha = sp.IndexedBase("alpha", shape=(n,), nonnegative=True)
G = sp.IndexedBase("g", shape=(n, d), real=True)
v = sp.IndexedBase("v", shape=(d,), real=True)


def over_tasks(term, index=i):
    """The sum over the tasks."""
    return Sum(term, (index, 1, n))


def inner(x, y):
    """The inner product of two vectors, given by their entries at k."""
    return Sum(x * y, (k, 1, d))


D.exact(
    "D2.3",
    eq(over_tasks(alpha[i] * inner(G[i, k], v[k])), inner(over_tasks(alpha[i] * G[i, k]), v[k])),
    by="the mean of the inner products is the inner product of the mean",
)

# %% [markdown]
# A stationary point need not be optimal: at a maximum of all losses every gradient is zero. For convex losses it is, in the
# weak sense that no point is better for *all* tasks. For a convex loss lies above its tangent: at the point $\theta + v$ it is
# $L_i + \langle g_i, v\rangle + c_i$ with some $c_i \ge 0$. The weighted mean of the changes is then not negative.

# %% tags=["hide-input"]
c = sp.IndexedBase("c", shape=(n,), nonnegative=True)
display(
    D.exact(
        "D2.4",
        eq(
            over_tasks(alpha[i] * (inner(G[i, k], v[k]) + c[i])),
            inner(over_tasks(alpha[i] * G[i, k]), v[k]) + over_tasks(alpha[i] * c[i]),
        ),
        by="the mean change of convex losses; at a stationary point the first sum is zero",
    ),
)

# %% [markdown]
# ## 3 Two tasks: add the unit vectors
#
# For two tasks an answer is at hand: the sum of the two unit vectors, $u = g_1/\|g_1\| + g_2/\|g_2\|$, claim C1. Let $a$ and
# $b$ be the lengths of the gradients and $\varphi$ the angle between them. Then $\langle g_1, u\rangle$ is $a$, plus the inner
# product of the gradients divided by $b$.

# %% tags=["hide-input"]
a, b = sp.symbols("a b", positive=True)
y, phi = sp.symbols("y varphi", real=True)
product = Symbol("r_{12}", real=True)
display(
    D.define("D3.1", eq(product, a * b * cos(phi)), by="the inner product of the gradients"),
    D.exact("D3.2", eq(a + product / b, a * (1 + cos(phi))), by="the first task"),
    D.exact("D3.3", eq(b + product / a, b * (1 + cos(phi))), by="the second task: the same, in its own unit"),
    D.exact("D3.4", eq(a * (1 + cos(phi)), 2 * a * cos(phi / 2) ** 2), by="half the angle"),
    D.exact("D3.5", ge(y**2, 0), tight={y: 0}, by="a square is not negative"),
)
D.exact(
    "D3",
    ge(a + product / b, 0),
    made=D["D3.5"].subs(y, cos(phi / 2)).multiply(2 * a).add(D["D3.4"]).add(D["D3.2"]),
    by="never negative, and zero only for opposite gradients",
)

# %% [markdown]
# With three tasks the recipe fails. Two gradients that point nearly the same way outvote a third one.

# %% tags=["hide-input"]
three = [Matrix([1, 0]), Matrix([-9, 1]) / 10, Matrix([-9, -1]) / 10]
outvoted = sum((g / g.norm() for g in three), sp.zeros(2, 1))
D.exact(
    "D3.6",
    lt(three[0].dot(outvoted), 0),
    by="three gradients, $(1, 0)$ and $(-0.9, \\pm 0.1)$: the first task gets worse",
)

# %% [markdown]
# ## 4 Any number of tasks: the shortest vector
#
# The post asks for the direction whose *worst* inner product is largest, with a price on its length: maximise
# $\min_i\langle g_i, u\rangle - \frac12\|u\|^2$. It exchanges maximum and minimum by von Neumann's theorem and arrives at the
# dual problem: find weights that make $\|\sum_i\alpha_i g_i\|$ as small as possible. The solution $u^*$ is the point of the
# convex hull of the gradients that lies nearest to zero; the hull is closed and bounded, so there is one. (The set of all $u$ is not bounded, so the theorem that is needed is
# Sion's. We will need neither.)
#
# Everything rests on one identity about two vectors $u$ and $v$, in any dimension. Write $A = \|u\|^2$,
# $B = \langle v, u\rangle$ and $W = \|v - u\|^2$.

# %% tags=["hide-input"]
u = sp.IndexedBase("u", shape=(d,), real=True)
eps = Symbol("epsilon", real=True)
squares = {"A": inner(u[k], u[k]), "B": inner(v[k], u[k]), "W": inner(v[k] - u[k], v[k] - u[k])}
mixed = (1 - eps) * u[k] + eps * v[k]
display(
    D.exact(
        "D4.1",
        eq(inner(mixed, mixed), squares["A"] - 2 * eps * (squares["A"] - squares["B"]) + eps**2 * squares["W"]),
        by="walk from $u$ towards $v$",
    ),
    D.exact(
        "D4.2",
        eq(inner(v[k], v[k]), squares["A"] + 2 * (squares["B"] - squares["A"]) + squares["W"]),
        by="the whole way",
        uses=["D4.1"],
    ),
)

# %% [markdown]
# **The shortest vector is a common descent direction.** Suppose that some gradient $g_i$ had
# $\langle g_i, u\rangle < \|u\|^2$. Call the deficit $\delta = A - B > 0$. Walk from $u$ towards $g_i$ by the share
# $\epsilon = \delta/(\delta + W)$. This stays in the hull, and it makes the vector shorter.

# %% tags=["hide-input"]
delta, W = sp.symbols("delta W", positive=True)
share = delta / (delta + W)
shortening = -(-2 * eps * delta + eps**2 * W)
display(
    D.exact(
        "D4.3",
        eq(shortening.subs(eps, share), delta**2 * (2 * delta + W) / (delta + W) ** 2),
        by="put the share into D4.1: the squared length falls by this much",
        uses=["D4.1"],
    ),
    D.exact("D4", gt(D["D4.3"].rhs, 0), by="which is positive", uses=["D4.3"]),
)

# %% [markdown]
# So a point of the hull with a deficit is not the shortest one. **For the shortest one no gradient has a deficit:
# $\langle g_i, u^*\rangle \ge \|u^*\|^2$ for all $i$.** This is claim C2, with more than it asked: not only is no inner product
# negative, each is at least $\|u^*\|^2$.
#
# **And this property marks the shortest vector.** A square is not negative, so [D4.2](#D4.2) gives a bound that holds for any
# two vectors.

# %% tags=["hide-input"]
D.exact(
    "D4.4",
    ge(inner(v[k], v[k]), 2 * inner(v[k], u[k]) - inner(u[k], u[k])),
    made=D["D3.5"].subs(y, v[k] - u[k]).sum(k, 1, d).add(D["D4.2"]),
    by="drop $W$, which is not negative",
)

# %% [markdown]
# Suppose now that $\langle g_i, u\rangle \ge \|u\|^2$ for all $i$, and let $v$ be any mean of the gradients. By [D2.3](#D2.3)
# the inner product $\langle v, u\rangle$ is the mean of the $\langle g_i, u\rangle$, so it is at least $\|u\|^2$ as well. Then
# [D4.4](#D4.4) says $\|v\|^2 \ge \|u\|^2$: no point of the hull is shorter. With $v = g_i$ the same line says that $\|u^*\|$ is
# at most the length of the shortest gradient. (So the method stops as soon as *one* task is at a stationary point, however bad
# the others are: that is what stationarity means.)
#
# **Tasks with weight gain equally.** The weighted mean of the $\langle g_i, u\rangle$ is exactly $\|u\|^2$. All of them are at
# least $\|u^*\|^2$ at the solution, so those with $\alpha_i > 0$ are *equal* to it.

# %% tags=["hide-input"]
U = over_tasks(alpha[j] * G[j, k], j)
D.exact(
    "D4.5",
    eq(over_tasks(alpha[i] * inner(G[i, k], U)), inner(U, U)),
    by="the mean of the inner products with $u = \\sum_j\\alpha_j g_j$",
)

# %% [markdown]
# **The two problems have one value.** For any direction $v$ the smallest of the numbers $q_i = \langle g_i, v\rangle$ is at most
# their mean, and the mean is $\langle u, v\rangle$.

# %% tags=["hide-input"]
q = sp.IndexedBase("q", shape=(n,), real=True)
smallest = Symbol(r"q_{\min}", real=True)
display(
    D.define("D5.1", eq(smallest, -MaxOver(-q[i], (i, 1, n))), by="the worst inner product"),
    D.exact("D5.2", ge(q[i], smallest)),
    D.exact(
        "D5.3",
        ge(over_tasks(alpha[i] * q[i]), over_tasks(alpha[i] * smallest)),
        made=D["D5.2"].multiply(alpha[i]).sum(i, 1, n),
        opaque=["D5.1"],
        by="the mean is at least the smallest (the weights add up to one)",
    ),
    D.exact(
        "D5.4",
        eq(inner(u[k], v[k]) - inner(v[k], v[k]) / 2, inner(u[k], u[k]) / 2 - inner(v[k] - u[k], v[k] - u[k]) / 2),
        by="complete the square",
    ),
    D.exact(
        "D5",
        le(inner(u[k], v[k]) - inner(v[k], v[k]) / 2, inner(u[k], u[k]) / 2),
        made=D["D3.5"].subs(y, v[k] - u[k]).sum(k, 1, d).multiply(-Rational(1, 2)).add(D["D5.4"]),
        by="the primal value of any $v$ is at most the dual value of any $u$ in the hull",
    ),
)

# %% [markdown]
# At $v = u = u^*$ both sides are equal, because there $\min_i\langle g_i, u^*\rangle = \|u^*\|^2$. So the direction with the
# best worst case *is* the shortest vector of the hull, and by [D5.4](#D5.4) it is the only one. This is claim C4, without
# any minimax theorem. And stationarity is settled as well: if $u^* \ne 0$, it lowers all losses; if $u^* = 0$,
# [D2.3](#D2.3) excludes that any direction does.
#
# ### Two tasks
#
# For two tasks the weights have a closed form. Let $p = \|g_1\|^2$, $q = \|g_2\|^2$ and $r = \langle g_1, g_2\rangle$, and give
# the first task the weight $\alpha$. Complete the square.

# %% tags=["hide-input"]
al, r = sp.symbols("alpha r", real=True)
p, qq, x1, x2 = sp.symbols("p q x_1 x_2", positive=True)
best = (qq - r) / (p + qq - 2 * r)
value = (p * qq - r**2) / (p + qq - 2 * r)
apart = {p: r + x1, qq: r + x2}
wide = {p: Interval(1, 4), qq: Interval(1, 4), r: Interval(-0.9, 0.9)}  # |r| below p and q: both tasks count
display(
    D.exact(
        "D4.6",
        eq(al**2 * p + 2 * al * (1 - al) * r + (1 - al) ** 2 * qq, (p + qq - 2 * r) * (al - best) ** 2 + value),
        by="$\\|u\\|^2$: the best weight and the smallest value can be read off",
        domain=wide,
    ),
    D.exact("D4.7", eq(best * p + (1 - best) * r, value), by="$\\langle g_1, u\\rangle$ there", domain=wide),
    D.exact(
        "D4.8",
        eq(best * r + (1 - best) * qq, value),
        by="$\\langle g_2, u\\rangle$ there: both are $\\|u\\|^2$",
        domain=wide,
    ),
    D.exact(
        "D4.9",
        eq(1 - best.subs(apart), x1 / (x1 + x2)),
        by="with $p = r + x_1$, $q = r + x_2$: the weights are between 0 and 1 if $r < p$ and $r < q$",
    ),
)

# %% [markdown]
# This $u$ is the foot of the altitude from zero to the segment between the gradients. If $r \ge p$, the angle is so small that
# the foot lies beyond $g_1$. Then $g_1$ itself satisfies the condition, $\langle g_2, g_1\rangle = r \ge p = \|g_1\|^2$, and the
# weights are $(1, 0)$: the weight is clipped to $[0, 1]$. This is the first half of claim C5.
#
# **What equal gain means.** All tasks with weight gain the same, *each in its own unit*. Change the unit of one loss by a factor
# $\kappa$, and the direction changes. For two gradients at right angles, of length 1 and $\kappa$:

# %% tags=["hide-input"]
kappa = Symbol("kappa", positive=True)
display(
    D.exact(
        "D4.10",
        eq(1 - best.subs({p: 1, qq: kappa**2, r: 0}), 1 / (1 + kappa**2)),
        by="the weight of the second task",
    ),
    D.limit("D4.11", tends(D["D4.10"].rhs, kappa, oo, 0), by="a task with large gradients loses its weight"),
)

# %% [markdown]
# So the method is shift invariant (constants in a loss do not matter) but not scale invariant, in the words of the post's first
# part. Dividing each gradient by its length before mends that.
#
# ## 5 The post's way: smooth, then sharpen
#
# The post reaches the solution in an intuitive way that it calls not rigorous. The smallest inner product is smoothed by a
# log-sum-exp with a large $\lambda$. The sum below has the term of the worst task and more, so the smooth minimum never lies above the
# true one. It lies below by at most $\frac{\log n}{\lambda}$, for any number of tasks:

# %% tags=["hide-input"]
lam = Symbol("lambda", positive=True)
D.exact(
    "D6.1",
    ge(-log(over_tasks(exp(-lam * q[i]))) / lam, smallest - log(n) / lam),
    made=D["D5.2"].multiply(-lam).apply(exp).sum(i, 1, n).apply(log).multiply(-1 / lam),
    opaque=["D5.1"],
    by="no term of the sum exceeds that of the worst task",
)

# %% [markdown]
# For two tasks with the values $m$ and $m + \tau$ the distance can be followed as the gap $\tau \ge 0$ grows.

# %% tags=["hide-input"]
tau = Symbol("tau", nonnegative=True)
m = Symbol("m", real=True)
soft, shift = Function("S", real=True), Function("ell", positive=True)
display(
    D.define("D6.2", eq(soft(tau), -log(exp(-lam * m) + exp(-lam * (m + tau))) / lam), by="the smooth minimum"),
    D.define("D6.3", eq(shift(z), log(1 + exp(-z))), by="a name"),
    D.exact(
        "D6.4",
        eq(soft(tau), m - shift(lam * tau) / lam),
        by="pull out the smaller value",
        domain={lam: Interval(0.1, 20), m: Interval(-2, 2), tau: Interval(0, 5)},
    ),
    D.exact("D6.5", eq(shift(0), log(2)), by="two equal values: $\\log 2/\\lambda$ below"),
    D.exact("D6.6", eq(Derivative(shift(z), z), -1 / (1 + exp(z))), by="it falls as the gap grows"),
    D.limit("D6.7", tends(exp(z) * shift(z), z, oo, 1), by="and vanishes like $e^{-z}$"),
)

# %% [markdown]
# Now maximise the smooth minimum minus $\frac12\|u\|^2$. Its gradient vanishes at a weighted mean of the gradients, with softmax
# weights. Shown for three tasks and two parameters:

# %% tags=["hide-input"]
u1, u2 = sp.symbols("u_1 u_2", real=True)
triple = [sp.symbols(f"g_{row}1 g_{row}2", real=True) for row in (1, 2, 3)]
served = [x * u1 + w * u2 for x, w in triple]
boltzmann = [exp(-lam * value_) for value_ in served]
smooth_minimum = -log(sum(boltzmann)) / lam
small = {lam: Interval(0.2, 2), u1: Interval(-1, 1), u2: Interval(-1, 1)} | {
    x: Interval(-2, 2) for pair in triple for x in pair
}
display(
    *(
        D.exact(
            f"D6.{number}",
            eq(
                Derivative(smooth_minimum - (u1**2 + u2**2) / 2, symbol),
                sum(e * pair[row] for e, pair in zip(boltzmann, triple, strict=True)) / sum(boltzmann) - symbol,
            ),
            by=text,
            domain=small,
        )
        for number, symbol, row, text in (
            (8, u1, 0, "softmax weights of $-\\lambda s_i$"),
            (9, u2, 1, "the other entry"),
        )
    )
)

# %% [markdown]
# So $u = \sum_i w_i g_i$. As $\lambda \to \infty$ the softmax picks the worst task $\tau = \arg\min_i s_i$, and the post reads the
# equation as a recipe: keep taking the mean with the gradient of the worst task,
# $u^{(k+1)} = \frac{k\,u^{(k)} + g_\tau}{k+1}$. Write the gap between two tasks as $c/\lambda$.

# %% tags=["hide-input"]
s1, s2, gap = sp.symbols("s_1 s_2 c", real=True)
runner_up = exp(-lam * s2) / (exp(-lam * s1) + exp(-lam * s2))
D.exact(
    "D6",
    eq(runner_up.subs(s2, s1 + gap / lam), 1 / (1 + exp(gap))),
    by="two tasks, $s_2 = s_1 + c/\\lambda$: the weight of the second one",
    domain={lam: Interval(0.5, 30), s1: Interval(-2, 2), gap: Interval(-3, 3)},
)

# %% [markdown]
# If the gap itself stays away from zero, $c$ grows with $\lambda$ and the softmax picks one task. But at the solution the inner
# products of all tasks with weight are *equal* (section 4). There the gaps shrink like $1/\lambda$, $c$ stays finite, and so do the
# weights: no single task is picked.
#
# The post expects that its iteration swings around the solution. It is right about that, and right that the iteration
# converges; the reason is another one.
#
# ## 6 The iteration is Frank–Wolfe
#
# A Frank–Wolfe step moves the weights towards one vertex of the simplex, by a share $\gamma$. In terms of $u$:
# $u \leftarrow (1-\gamma)u + \gamma g_\tau$. The post's step is of this kind, and after $k$ steps $u$ is the plain mean of all
# gradients that were chosen.

# %% tags=["hide-input"]
K = Symbol("k", positive=True)
uu, gg = sp.symbols("u g", real=True)
gamma = 1 / (K + 1)
D.exact("D7.1", eq((K * uu + gg) / (K + 1), (1 - gamma) * uu + gamma * gg), by="the share is $\\gamma = 1/(k+1)$")

# %% [markdown]
# Which share is best? Let $A = \|u\|^2$, $B = \langle g_\tau, u\rangle$ and $C = \|g_\tau\|^2$. The half square on the way is a
# parabola in $\gamma$. Complete the square: the best share and the decrease can be read off.

# %% tags=["hide-input"]
share_, AA, BB, CC = sp.symbols("gamma A B C", real=True)
inside = {AA: Interval(1, 3), CC: Interval(1, 3), BB: Interval(-0.9, 0.9)}
bend = AA - 2 * BB + CC
D.exact(
    "D7.2",
    eq(
        ((1 - share_) ** 2 * AA + 2 * share_ * (1 - share_) * BB + share_**2 * CC) / 2,
        bend / 2 * (share_ - (AA - BB) / bend) ** 2 + AA / 2 - (AA - BB) ** 2 / (2 * bend),
    ),
    by="line search: $\\gamma = \\frac{A-B}{A-2B+C}$, clipped to $[0, 1]$",
    domain=inside,
)

# %% [markdown]
# Each step also knows how far it is from the end. Let $f = \frac12\|u\|^2$ and let $f^*$ be its smallest value. From
# [D4.4](#D4.4), for any other point $v$ of the hull:

# %% tags=["hide-input"]
D.exact(
    "D7.3",
    le(inner(u[k], u[k]) / 2 - inner(v[k], v[k]) / 2, inner(u[k], u[k]) - inner(v[k], u[k])),
    made=D["D4.4"].multiply(-Rational(1, 2)).add(inner(u[k], u[k]) / 2),
    by="put $v = u^*$: what is left to gain",
)

# %% [markdown]
# No $\langle v, u\rangle$ is below the worst inner product $B$, so $f - f^* \le A - B$. The number $A - B$ is at hand in every
# step: a certificate, free of charge.
#
# Now the rate. Let $h$ be the excess $f - f^*$ before a step, $R$ the diameter of the hull, so that $W = \|g_\tau - u\|^2 \le R^2$.
# Write $A - B = h + x$ with $x \ge 0$ (the certificate) and $W = R^2 - w$ with $w \ge 0$. By [D4.1](#D4.1) the excess after the step
# is $h - \gamma(A - B) + \gamma^2 W/2$.

# %% tags=["hide-input"]
h, xx, ww, R, step = sp.symbols("h x w R gamma", positive=True)
xx, ww = sp.symbols("x w", nonnegative=True)
steps_ = Symbol("k", integer=True, positive=True)
bound = (h + R**2 * (harmonic(steps_) - 1) / 2) / steps_
share_k = 1 / (steps_ + 1)
open_bound = 2 * R**2 / (K + 2)
display(
    D.exact(
        "D7.4",
        le(h - step * (h + xx) + step**2 * (R**2 - ww) / 2, (1 - step) * h + step**2 * R**2 / 2),
        tight={xx: 0, ww: 0},
        by="one step",
    ),
    D.exact(
        "D7.5",
        eq((1 - share_k) * bound + share_k**2 * R**2 / 2, bound.subs(steps_, steps_ + 1)),
        by="with $\\gamma = 1/(k+1)$ this bound passes from $k$ to $k + 1$ ($H_k$ is the harmonic number)",
        domain={steps_: Integer(1, 30)},
    ),
    D.limit(
        "D7", tends(harmonic(steps_) / steps_, steps_, oo, 0), by="so the post's iteration converges", uses=["D7.5"]
    ),
    D.exact(
        "D7.6",
        eq(
            open_bound.subs(K, K + 1) - (1 - 2 / (K + 2)) * open_bound - (2 / (K + 2)) ** 2 * R**2 / 2,
            2 * R**2 / ((K + 2) ** 2 * (K + 3)),
        ),
        by="with $\\gamma = 2/(k+2)$ the bound $2R^2/(k+2)$ passes on, with something to spare",
    ),
)

# %% [markdown]
# The first bound holds at $k = 1$ with $h$ the excess of the start $u^{(1)} = g_1$. So **claim C3 is a theorem**: after $k$ steps
# the excess is at most $\frac1k\big(h + \frac{R^2}{2}(H_k - 1)\big)$, of the order $\log k/k$. The second rule starts with
# $\gamma = 1$, which leaves at most $R^2/2$ whatever stood there before, so its excess is at most $2R^2/(k+2)$ after $k$ steps. The
# line search gains in each step at least as much as any other share, and inherits that bound. These are upper bounds.
# What really happens is measured in section 14.
#
# ## 7 Why not gradient descent?
#
# The author wonders why nobody simply writes $\alpha = \mathrm{softmax}(\beta)$ and descends in $\beta$, claim C6. Let
# $K_{ij} = \langle g_i, g_j\rangle$ and $F = \frac12\alpha^\top K\alpha$. For three tasks:

# %% tags=["hide-input"]
betas = sp.symbols("beta_1:4", real=True)
entry = {
    (row, column): Symbol(f"K_{min(row, column) + 1}{max(row, column) + 1}", real=True)
    for row in range(3)
    for column in range(3)
}
KK = Matrix(3, 3, lambda row, column: entry[row, column])
Z = sum(exp(x) for x in betas)
softmax = Matrix([exp(x) / Z for x in betas])
F = (softmax.T * KK * softmax)[0] / 2
few = {x: Interval(-1, 1) for x in (*betas, *KK)}
D.exact(
    "D8.1",
    eq(Derivative(F, betas[0]), softmax[0] * ((KK * softmax)[0] - 2 * F)),
    by="each slope carries the weight $\\alpha_i$ as a factor",
    domain=few,
)

# %% [markdown]
# That factor is the answer. A task that should get no weight is left with a smaller and smaller slope. Take two tasks, the
# second one to be dropped, and let $b = \beta_1 - \beta_2$, so that $\alpha_2 = 1/(1+e^b)$.

# %% tags=["hide-input"]
bb, b0, time, rate = sp.symbols("b b_0 t c", positive=True)
w2 = 1 / (1 + exp(bb))
drift = Function("b", real=True)
pair = Matrix([1 - w2, w2])
K2 = Matrix(2, 2, sp.symbols("K_11 K_12 K_12 K_22", real=True))
F2 = (pair.T * K2 * pair)[0] / 2
display(
    D.exact(
        "D8.2",
        eq(Derivative(F2, bb), -w2 * (1 - w2) * ((K2 * pair)[1] - (K2 * pair)[0])),
        by="the slope in $b$ has the factor $\\alpha_1\\alpha_2$",
        domain={bb: Interval(0.1, 3)} | {x: Interval(-1, 1) for x in K2},
    ),
    D.limit("D8.3", tends(exp(bb) * w2 * (1 - w2), bb, oo, 1), by="which falls like $e^{-b}$"),
    D.define("D8.4", eq(drift(time), log(exp(b0) + 2 * rate * time)), by="descent with $b' = 2c\\,e^{-b}$"),
    D.exact("D8.5", eq(Derivative(drift(time), time), 2 * rate * exp(-drift(time))), by="it solves this equation"),
    D.limit(
        "D8",
        tends(2 * rate * time / (1 + exp(drift(time))), time, oo, 1),
        by="so the weight that should vanish does so only like $1/(2ct)$",
    ),
)

# %% [markdown]
# (Descent moves $\beta_1$ and $\beta_2$ by opposite amounts: hence the 2. The constant $c$ is the difference of the two inner
# products $(K\alpha)_2 - (K\alpha)_1$ at the solution.) The *mirror* step, also called exponentiated gradient, moves $\beta_i$ by
# $-\eta (K\alpha)_i$, without the factor $\alpha_i$. Then $b$ grows in proportion to time, and the weight vanishes exponentially.
# So the post's idea works; it is slow where a task is to be dropped.
#
# ## 8 Only inner products are needed
#
# The iteration needs the inner products of the gradients with $u = \sum_j\alpha_j g_j$, and nothing else about the
# gradients, claim C7.

# %% tags=["hide-input"]
gram = Sum(G[i, k] * G[j, k], (k, 1, d))
D.exact(
    "D9",
    eq(inner(G[i, k], U), Sum(alpha[j] * gram, (j, 1, n))),
    by="a row of $K\\alpha$",
)

# %% [markdown]
# With $P$ parameters the matrix $K$ costs $O(n^2P)$ once per training step. Each iteration then costs $O(n^2)$, however large
# the network is.
#
# ## 9 A shared encoder and its shortcut
#
# Often the tasks meet in one representation $H$, the output of a shared encoder with parameters $\theta$. Write $a_i$ for the
# gradient of $L_i$ by $H$ (a row of $m$ numbers) and $J$ for the Jacobian of $H$ by $\theta$. Then $g_i = a_iJ$. One backward
# pass through the heads gives all $a_i$; each $g_i$ costs a pass through the encoder. The paper behind the post
# ([arXiv 1810.04650](https://arxiv.org/abs/1810.04650)) saves those: it bounds $\|\sum\alpha_ig_i\|$ by
# $\|\sum\alpha_ia_i\|\,\|J\|$ and minimises the first factor only. It calls this MGDA-UB, for upper bound.
#
# The bound is Cauchy's. Its gap is a sum of squares, so it holds with the Frobenius norm of $J$ (and with the spectral norm,
# which is smaller).

# %% tags=["hide-input"]
mm, PP = sp.symbols("m P", integer=True, positive=True)
vec = sp.IndexedBase("v", shape=(mm,), real=True)
J = sp.IndexedBase("J", shape=(mm, PP), real=True)
image = Sum(Sum(vec[i] * J[i, k], (i, 1, mm)) ** 2, (k, 1, PP))
norms = Sum(vec[i] ** 2, (i, 1, mm)) * Sum(Sum(J[i, k] ** 2, (i, 1, mm)), (k, 1, PP))
crossed = Sum(Sum(Sum((vec[i] * J[j, k] - vec[j] * J[i, k]) ** 2, (i, 1, mm)), (j, 1, mm)), (k, 1, PP)) / 2
display(
    D.exact(
        "D10.1",
        eq(norms - image, crossed),
        by="Lagrange's identity, for $v = \\sum\\alpha_ia_i$",
    ),
    D.exact(
        "D10",
        le(image, norms),
        made=D["D3.5"]
        .subs(y, vec[i] * J[j, k] - vec[j] * J[i, k])
        .sum(i, 1, mm)
        .sum(j, 1, mm)
        .sum(k, 1, PP)
        .multiply(-Rational(1, 2))
        .add(D["D10.1"])
        .add(image),
        by="so $\\|vJ\\|^2 \\le \\|v\\|^2\\,\\|J\\|^2$",
    ),
)

# %% [markdown]
# The post adds a remark: if every sample carries the label of one task only, the $a_i$ of different tasks live on different
# samples. They are at right angles, and the shortcut "loses its meaning". The sharper statement: with
# $\pi_i = \|a_i\|^2$ and $\langle a_i, a_j\rangle = 0$ the weights are $\alpha_i = \frac{1}{\pi_i}\big/\sum_j\frac1{\pi_j}$. For then all
# inner products $(K\alpha)_i = \alpha_i\pi_i$ are equal, and that marks the solution (section 4).

# %% tags=["hide-input"]
sizes = sp.IndexedBase("pi", shape=(n,), positive=True)
weight = sp.IndexedBase("w", shape=(n,), positive=True)
total = Symbol("Sigma", positive=True)
display(
    D.define("D10.2", eq(total, over_tasks(1 / sizes[j], j)), by="sum of the inverse squares"),
    D.define("D10.3", eq(weight[i], 1 / (sizes[i] * total)), by="inverse-square weights"),
    D.exact("D10.4", eq(over_tasks(weight[i]), 1), by="they add up to one"),
    D.exact("D10.5", eq(weight[i] * sizes[i], 1 / total), by="every task has the same inner product"),
    D.exact("D10.6", eq(over_tasks(weight[i] ** 2 * sizes[i]), 1 / total), by="and that is the squared length"),
)

# %% [markdown]
# So the update is $\sum_i g_i/\|a_i\|^2$, up to a factor: a rule by norms alone, in which the tasks do not interact.
#
# ## 10 Is the shortcut's theorem true?
#
# The paper claims that the direction of MGDA-UB is zero only at stationary points, and otherwise lowers every loss, if $J$ has
# full rank. The post finds an error in the proof: it uses the lemma "for a symmetric positive definite $M$,
# $x^\top y \ge 0$ if and only if $x^\top My \ge 0$". The post's counterexample has $x = (1, -2)$, $y = (1, 1)$ and
# $M = \mathrm{diag}(\mu, 1)$, with $\mu = 3$. Here $\mu = 1$ is the plain inner product.

# %% tags=["hide-input"]
mu = Symbol("mu", positive=True)
form, kick = Function("Q", real=True), Function("T", real=True)
xv, yv = Matrix([1, -2]), Matrix([1, 1])
display(
    D.define("D11.1", eq(form(mu), (xv.T * sp.diag(mu, 1) * yv)[0]), by="$x^\\top M y$"),
    D.exact("D11.2", lt(form(1), 0), by="negative for the plain inner product"),
    D.exact("D11.3", gt(form(3), 0), by="positive for $M = \\mathrm{diag}(3, 1)$: the lemma is false"),
)

# %% [markdown]
# A false lemma does not make a theorem false. The author believes that it cannot be repaired, claim C9, and he is right. Take
# $a_1 = (1, 1)$, $a_2 = (-1, 4)$ and the encoder $J = \mathrm{diag}(\kappa, 1)$, which has full rank for every $\kappa > 0$. The
# inner product $\langle a_1, a_2\rangle$ exceeds $\|a_1\|^2$, so by section 4 the weights of MGDA-UB are $(1, 0)$, and the update
# is $u = g_1 = a_1J$. Let $T(\kappa)$ be what this does for the second task, $\langle g_2, u\rangle$.

# %% tags=["hide-input"]
a1, a2 = Matrix([[1, 1]]), Matrix([[-1, 4]])
overlap, square = Symbol(r"r_H", real=True), Symbol("p_H", real=True)
encoder = sp.diag(kappa, 1)
display(
    D.define("D11.4", eq(overlap, a1.dot(a2)), by="$\\langle a_1, a_2\\rangle$"),
    D.define("D11.5", eq(square, a1.dot(a1)), by="$\\|a_1\\|^2$"),
    D.exact("D11.6", gt(overlap, square), by="so the first task gets all the weight"),
    D.define("D11.7", eq(kick(kappa), (a2 * encoder).dot(a1 * encoder)), by="$\\langle g_2, u\\rangle$"),
    D.exact("D11.8", eq(kick(kappa), (2 - kappa) * (2 + kappa)), by="it changes its sign at $\\kappa = 2$"),
    D.exact(
        "D11",
        lt(kick(2 + x1), 0),
        by="for every $\\kappa = 2 + x_1 > 2$ the second loss *increases*, although $J$ has full rank",
    ),
)

# %% [markdown]
# With $\kappa = 10$, $\langle g_2, u\rangle = -96$. An encoder that stretches some directions more than others turns a good
# direction for $H$ into a bad one for $\theta$.
#
# **The true half.** The other half of the theorem survives; the post does not mention it. If $J$ has full row rank, a vector $v$
# can be read back from $vJ$. So $\sum\alpha_ia_i = 0$ if and only if $\sum\alpha_ig_i = 0$, and MGDA-UB stops exactly at the
# stationary points. For $m = 2$: full row rank means that two columns of $J$ have a determinant other than zero, and these two
# columns are enough.

# %% tags=["hide-input"]
jac = Matrix(2, 2, sp.symbols("J_11 J_12 J_21 J_22", real=True))
vv = Matrix([sp.symbols("v_1 v_2", real=True)])
back = vv * jac * Matrix([[jac[1, 1], -jac[0, 1]], [-jac[1, 0], jac[0, 0]]])
determinant = jac[0, 0] * jac[1, 1] - jac[0, 1] * jac[1, 0]
display(
    D.exact("D11.9", eq(back[0], vv[0] * determinant), by="$vJ$ times the adjugate of two columns of $J$"),
    D.exact("D11.10", eq(back[1], vv[1] * determinant), by="the other entry"),
)

# %% [markdown]
# And by [D4.5](#D4.5) the weighted mean of the $\langle g_i, u\rangle$ is $\|u\|^2$ for *any* weights. So where MGDA-UB moves at all,
# the weighted loss falls, and at least one task gains. Only "no task gets worse" is lost. (Full row rank needs at least as many
# parameters as entries in $H$: batch size times width.)
#
# ## 11 A landscape to walk on
#
# For pictures take two parameters and two losses with a known answer (Fonseca and Fleming 1995):
# $L_{1,2} = 1 - e^{-\|\theta \mp c\|^2}$ with $c = (1, 1)/\sqrt2$. Each has its minimum at $\pm c$. On the segment $\theta = \tau c$ between
# the minima the gradients are opposite multiples of $c$. So every point of it is stationary, and no other point is. Write
# $G_{1,2}(\tau)$ for the slopes along the segment.

# %% tags=["hide-input"]
place = Symbol("tau", real=True)
both = Function("\\Phi", real=True)
slopes = Function("G_1", real=True), Function("G_2", real=True)
display(
    D.define("D12.1", eq(slopes[0](place), 2 * (place - 1) * exp(-((place - 1) ** 2))), by="slope of the first loss"),
    D.define("D12.2", eq(slopes[1](place), 2 * (place + 1) * exp(-((place + 1) ** 2))), by="slope of the second loss"),
    D.exact(
        "D12.3",
        eq(slopes[0](place) * slopes[1](place), 4 * (place**2 - 1) * exp(-2 * place**2 - 2)),
        by="opposite signs for $|\\tau| < 1$",
    ),
    D.define(
        "D12.4",
        eq(both(place), 2 - exp(-((place - 1) ** 2)) - exp(-((place + 1) ** 2))),
        by="the sum of the losses on the segment",
    ),
    D.series(
        "D12",
        eq(both(place), 2 - 2 * exp(-1) - 2 * exp(-1) * place**2 + O(place**4)),
        by="it has a *maximum* in the middle",
    ),
)

# %% [markdown]
# The last line is a warning about fixed weights. The middle of the segment is as good as any other Pareto point, but the sum of
# the losses is highest there: whoever descends the sum is driven towards one of the two ends.
#
# ## 12 What will be tested, and by which rule
#
# The post makes nine claims. Some come in parts. Each gets its rule here, before anything is measured; three rows (C2c,
# C5c and C10) are questions of this chapter. A claim *holds* when every condition of its rule is met, *partly* when some are, and *fails* when
# none is. A claim that this run cannot test stays *open*. The thresholds of the measured conditions were fixed after pilot runs
# with seeds that this page does not use.

# %% tags=["experiment", "hide-input"]
import time as clock

import numpy as np
import torch
from matplotlib.colors import to_rgb

from kexue_lib import lab, min_norm, multitask
from kexue_lib.lab import Criterion, multidigits, settled

run = lab.Run(scale=scale, seed=seed, device=device)
claims = lab.Claims("gradient-direction")

claims.register(
    "C1",
    r"two tasks: $u = g_1/\|g_1\| + g_2/\|g_2\|$ makes neither worse",
    kind="exact",
    how="proved for gradients of any length and angle",
    steps=[D["D3"]],
    evidence=["D3.3", "D3.6"],
)
claims.register(
    "C2a",
    r"$\max_u\,\min_i\langle g_i, u\rangle - \frac12\|u\|^2$: its solution makes no task worse",
    kind="exact",
    how="proved for any number of tasks and parameters",
    steps=[D["D4"], D["D5"]],
    evidence=["D4.3", "D1"],
)
claims.register(
    "C2b",
    "so it does in training, and fixed weights do not",
    kind="empirical",
    how="three tasks on one trunk; direction of the update before Adam",
    criteria=[
        Criterion("min norm", "MGDA: no task gets worse in any step", lambda v: v["bad steps, MGDA"] == 0),
        Criterion(
            "equal",
            "equal weights: some task does in more than 25 % of the steps",
            lambda v: v["bad steps, equal"] > 25,
        ),
    ],
)
claims.register(
    "C2c",
    "small steps along it end at a Pareto stationary point, and no loss ever increases",
    kind="empirical",
    how="the landscape of section 11, 6 starts, 2000 steps of 0.1",
    criteria=[
        Criterion("stationary", "distance to the segment of minima below 0.02", lambda v: v["largest distance"] < 0.02),
        Criterion("monotone", "no loss increases in any step", lambda v: v["largest increase"] <= 1e-12),
    ],
)
claims.register(
    "C3",
    r"$u^{(k+1)} = \frac{k\,u^{(k)} + g_\tau}{k+1}$ with the worst task $\tau$ converges to the solution",
    kind="heuristic",
    how="the rate is proved; 20 random problems with an inactive task",
    criteria=[
        settled(D["D7"], "the bound tends to zero", accept=("proved", "asymptotic")),
        settled(D["D7.5"], "the bound passes from step to step"),
        Criterion(
            "bound", "every iterate of every problem keeps the bound", lambda v: v["largest share of the bound"] <= 1
        ),
        Criterion("close", "median excess after 1000 steps below 0.1 %", lambda v: v["median excess (%)"] < 0.1),
    ],
    evidence=["D6.1", "D6.8", "D6"],
)
claims.register(
    "C4",
    r"it is the shortest vector of the convex hull: minimise $\|\sum_i\alpha_ig_i\|$ over weights",
    kind="exact",
    how="proved; checked on 200 random problems with 3 to 6 tasks, by trying all faces",
    criteria=[
        settled(D["D5"], "no direction has a larger primal value than the dual value"),
        settled(D["D4"], "a deficit can be removed"),
        Criterion(
            "equal gain",
            r"$\langle g_i, u\rangle \ge \|u\|^2$, equal where $\alpha_i > 0$, to $10^{-8}$",
            lambda v: v["largest violation"] < 1e-8,
        ),
    ],
    evidence=["D4.5", "D4.4"],
)
claims.register(
    "C5a",
    "two tasks: the foot of the altitude, clipped to the segment",
    kind="exact",
    how="proved",
    steps=[D["D4.6"], D["D4.7"], D["D4.8"]],
)
claims.register(
    "C5b",
    "more tasks: Frank–Wolfe; the iteration of C3 is Frank–Wolfe with the share $1/(k+1)$",
    kind="exact",
    how="proved; both programmed and compared after 57 steps",
    criteria=[
        settled(D["D7.1"], "the share"),
        settled(D["D7.2"], "the line search"),
        Criterion("same", "relative difference below $10^{-12}$", lambda v: v["difference"] < 1e-12),
    ],
)
claims.register(
    "C5c",
    "(ours) the exact line search from equal weights is slow where a task is idle",
    kind="empirical",
    how="the problems of C3, 1000 steps",
    criteria=[
        Criterion(
            "slower",
            "its median excess is at least 5 times that of either fixed share",
            lambda v: v["excess, line (%)"] >= 5 * max(v["excess, 1/(k+1) (%)"], v["excess, 2/(k+2) (%)"]),
        ),
        Criterion("away", "with away steps it is below $10^{-8}$ %", lambda v: v["excess, away (%)"] < 1e-8),
    ],
)
claims.register(
    "C6",
    r"plain gradient descent in $\beta$ with $\alpha = \mathrm{softmax}\,\beta$ does it too",
    kind="exact",
    how="the slope is derived; the problems of C3, 1000 steps",
    criteria=[
        settled(D["D8.1"], "the slope"),
        Criterion(
            "close",
            "median excess below 1 % with the best of eight rates",
            lambda v: v["median excess, softmax (%)"] < 1,
        ),
        Criterion(
            "as good",
            "not above that of the iteration of C3",
            lambda v: v["median excess, softmax (%)"] <= v["median excess, C3 (%)"],
        ),
    ],
    evidence=["D8"],
)
claims.register("C7", "only the Gram matrix of the gradients is needed", kind="exact", how="proved", steps=[D["D9"]])
claims.register(
    "C8a",
    r"$\|\sum\alpha_ig_i\| \le \|\sum\alpha_i\nabla_HL_i\|\,\|\nabla_\theta H\|$",
    kind="exact",
    how="Lagrange's identity",
    steps=[D["D10"]],
)
claims.register(
    "C8b",
    "minimising the first factor is useless when every sample has the label of one task only",
    kind="exact",
    how=r"solved: weights $\alpha_i \propto 1/\|\nabla_HL_i\|^2$, which know nothing of the directions",
    steps=[D["D10.5"], D["D10.6"]],
)
claims.register(
    "C8c",
    "and it is cheaper",
    kind="empirical",
    how="time of a step with 8 tasks, encoders of $10^5$ to $10^8$ parameters",
    **run.pick(
        quick={"open_because": "a time, to be taken on an idle machine: only in a full run"},
        full={
            "criteria": [
                Criterion("time", "at most half the time for the largest encoder", lambda v: v["time ratio"] <= 0.5)
            ],
            "clocked": ["time ratio"],
        },
    ),
)
claims.register(
    "C9a",
    "the lemma in the proof of MGDA-UB's theorem is false",
    kind="exact",
    how="a counterexample",
    steps=[D["D11.2"], D["D11.3"]],
)
claims.register(
    "C9b",
    "and the theorem too: even for a Jacobian of full rank a task may get worse",
    kind="exact",
    how="a counterexample with two parameters; steps of the training of C2b",
    criteria=[
        settled(D["D11.6"], "the weights are $(1, 0)$"),
        settled(D["D11"], "the second loss increases"),
        Criterion(
            "training",
            "MGDA-UB makes a task worse in more than 10 % of the steps",
            lambda v: v["bad steps, MGDA-UB"] > 10,
        ),
    ],
    evidence=["D11.9", "D4.5"],
)
claims.register(
    "C10",
    "(ours) the min-norm direction depends on the units of the losses; on normalised gradients it does not",
    kind="empirical",
    how="the training of C2b; the unit of the third loss varied by a factor of 300",
    criteria=[
        settled(D["D4.11"], "a task with large gradients loses its weight"),
        Criterion(
            "min norm", "$R^2$ of the third task, range over the units: more than 0.2", lambda v: v["range, MGDA"] > 0.2
        ),
        Criterion("normalised", "on normalised gradients: less than 0.15", lambda v: v["range, normalised"] < 0.15),
        Criterion(
            "good",
            "normalised, every unit: both accuracies above 80 %, $R^2$ above 0.7",
            lambda v: v["lowest accuracy (%)"] > 80 and v["lowest R2"] > 0.7,
        ),
    ],
)
claims.table()

# %% [markdown]
# ## 13 The hull in pictures
#
# Three situations in the plane. The gradients span their convex hull (orange). The directions that make no task worse form a
# cone (blue). The shortest vector of the hull lies in it; where zero is inside the hull, the cone has shrunk to a point.

# %% tags=["experiment", "hide-input"]
situations = {
    "two tasks: the foot of the altitude": [[2.4, 0.4], [-1.0, 1.5]],
    "three tasks: one has no weight": [[0.9, 2.0], [-1.5, 0.6], [1.9, 0.7]],
    "zero is inside: nothing to gain": [[2.0, 0.6], [-1.7, 1.1], [-0.3, -1.6]],
}
turns = np.linspace(0, 2 * np.pi, 3601)
circle = np.stack([np.cos(turns), np.sin(turns)], -1)
hull_data = {}
arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 13}
with lab.style.use() as plt:
    fig, panels = plt.subplots(1, 3, figsize=(9.6, 3.7), sharey=True)
    for number, (ax, (name, vectors)) in enumerate(zip(panels, situations.items(), strict=True), 1):
        g = np.array(vectors)
        found = min_norm.min_norm_point(torch.tensor(g))
        point = found.point.numpy()
        allowed = (circle @ g.T >= -1e-12).all(-1)
        if allowed.any():
            good = np.where(allowed[:, None], circle, np.nan)
            middle = circle[allowed].mean(0)
            order = np.argsort(circle[allowed] @ np.array([-middle[1], middle[0]]))
            sector = 2.3 * circle[allowed][order]
            ax.fill(*np.vstack([[0, 0], sector]).T, color=lab.style.PALETTE["blue"], alpha=0.13, linewidth=0)
        ax.fill(
            *g.T,
            facecolor=(*to_rgb(lab.style.PALETTE["orange"]), 0.25),
            edgecolor=lab.style.PALETTE["orange"],
            linestyle="-",
        )
        for which, vector in enumerate(g, 1):
            ax.annotate("", vector, (0, 0), arrowprops=arrow | {"color": lab.style.INK, "linewidth": 1.3})
            ax.annotate(f"$g_{which}$", 1.14 * vector + [0, 0.06], ha="center", va="center")
        if np.linalg.norm(point) > 1e-9:
            ax.annotate("", point, (0, 0), arrowprops=arrow | {"color": lab.style.PALETTE["blue"], "linewidth": 2.4})
            ax.annotate("$u^*$", 0.5 * point + [-0.3, 0.0], color=lab.style.PALETTE["blue"], fontsize=12, ha="center")
        ax.plot([0], [0], "o", color=lab.style.INK, markersize=4)
        ax.set(xlim=(-2.3, 2.9), ylim=(-2.1, 2.4), aspect="equal", xlabel="first parameter")
        lab.style.title(ax, name)
        hull_data |= {f"gradients {number}": g, f"point {number}": point, f"weights {number}": found.weights.numpy()}
    panels[0].set_ylabel("second parameter")
lab.figure(
    fig,
    name="hull",
    title="The shortest vector of the hull lies in the cone that serves all tasks",
    caption=(
        "**Figure 1.** Gradients (black), their convex hull (orange), the directions whose step makes no task worse to first order "
        "(blue), and the shortest vector of the hull (blue arrow)."
    ),
    alt=(
        "Three panels in the plane. In the first two the shortest vector from zero to the orange hull is drawn; it lies inside the "
        "blue cone of common descent. In the third zero lies inside the hull and there is neither cone nor arrow."
    ),
    data=hull_data,
)

# %% [markdown]
# The same in more dimensions, where it cannot be drawn: random problems with three to six tasks, solved by trying all faces.

# %% tags=["experiment", "hide-input"]
draws = run.generator("random problems")
violations = []
for tasks in (3, 4, 5, 6):
    g = torch.randn(50, tasks, 5, generator=draws, dtype=torch.float64)
    g = g * torch.exp(torch.randn(50, tasks, 1, generator=draws, dtype=torch.float64))
    weights = min_norm.min_norm_weights(g @ g.mT, "faces")
    products = (g @ (weights[:, None] @ g).mT)[..., 0]
    squares_ = (weights * products).sum(-1, keepdim=True)
    unit = (g**2).sum(-1).amax(-1, keepdim=True)
    too_small, unequal = (squares_ - products) / unit, (weights > 1e-9) * (products - squares_).abs() / unit
    violations.append(max(too_small.max().item(), unequal.max().item()))
claims.measure("C4", {"largest violation": max(violations)})
print("largest violation, relative to the longest gradient:", lab.approx(max(violations), 2))

# %% [markdown]
# ## 14 How fast are the iterations?
#
# Twenty random problems with five tasks and eight parameters, in which at least one task gets no weight. This is the hard case: a
# weight has to reach zero. Four rules of the share: the post's $1/(k+1)$, started at $g_1$; and from equal weights, as codes for
# MGDA start, the line search, the textbook's $2/(k+2)$ (steps counted from 0), and the line search with *away steps*, which may
# also take weight from the task that is served best.

# %% tags=["experiment", "hide-input"]
steps = run.pick(quick=1000, full=30000) // shrink


def problems(count, tasks, width, shift, accept, stream):
    """The first random problems whose solution is as asked: gradients (count, tasks, width)."""
    generator, chosen = run.generator(stream), []
    while len(chosen) < count:
        g = torch.randn(tasks, width, generator=generator, dtype=torch.float64) + shift
        if accept(min_norm.min_norm_point(g)):
            chosen.append(g)
    return torch.stack(chosen)


edge = problems(20, 5, 8, 0.35, lambda found: (found.weights > 0).sum() in (2, 3, 4), "problems on a face")
edge_gram = edge @ edge.mT
least = min_norm.min_norm_point(edge).point.square().sum(-1) / 2
paths = {rule: min_norm.frank_wolfe(edge_gram, steps, rule) for rule in min_norm.RULES}
excess = {rule: ((path.values - least) / least).clamp(min=1e-17).median(-1).values for rule, path in paths.items()}

counts = torch.arange(1, steps + 2, dtype=torch.float64)  # the start of the post's rule is step 1
diameter = torch.cdist(edge, edge).amax((-2, -1))
proved = (paths["average"].values[0] - least + diameter**2 * ((1 / counts).cumsum(0)[:, None] - 1) / 2) / counts[
    :, None
]
share_of_bound = ((paths["average"].values - least) / proved)[1:].max()
last = min(steps, 1000)
claims.measure(
    "C3",
    {"largest share of the bound": share_of_bound.item(), "median excess (%)": 100 * excess["average"][last].item()},
)

one = edge[0]
by_hand = one[0]
for k_ in range(1, 58):
    by_hand = (k_ * by_hand + one[(one @ by_hand).argmin()]) / (k_ + 1)
same = min_norm.frank_wolfe(one @ one.T, 57, "average").weights[-1] @ one
claims.measure("C5b", {"difference": ((same - by_hand).norm() / by_hand.norm()).item()})

inner_ = problems(20, 8, 3, 0.0, lambda found: found.point.norm() < 1e-9, "problems around zero")
inner_gram, scale_ = inner_ @ inner_.mT, inner_.square().sum(-1).mean(-1)
inside_paths = {rule: min_norm.frank_wolfe(inner_gram, steps, rule) for rule in min_norm.RULES}
lengths = {
    rule: (2 * path.values.clamp(min=0) / scale_).sqrt().clamp(min=1e-16).median(-1).values
    for rule, path in inside_paths.items()
}
claims.measure(
    "C5c",
    {
        f"excess, {short} (%)": 100 * excess[rule][last].item()
        for rule, short in (("line", "line"), ("average", "1/(k+1)"), ("open", "2/(k+2)"), ("away", "away"))
    },
)
names = {
    "line": "line search",
    "average": "$1/(k+1)$, the post's",
    "open": "$2/(k+2)$",
    "away": "line search, away steps",
}
shown = np.unique(np.geomspace(1, steps, 60).astype(int))
with lab.style.use() as plt:
    fig, (left, right_) = plt.subplots(1, 2, figsize=(7.6, 4.2))
    for rule, label in names.items():
        left.plot(shown, excess[rule][shown], marker="", label=label)
        right_.plot(shown, lengths[rule][shown], marker="", label=label)
    left.set(xscale="log", yscale="log", xlabel="steps $k$", ylabel="excess $(f - f^*)/f^*$", ylim=(1e-15, 3))
    right_.set(xscale="log", yscale="log", xlabel="steps $k$", ylabel=r"$\|u\|$ / rms $\|g_i\|$", ylim=(1e-8, 2))
    left.legend(loc="lower right", fontsize=8, handlelength=1.6)
    lab.style.title(left, "A task without weight")
    lab.style.title(right_, "Zero inside the hull")
lab.figure(
    fig,
    name="rates",
    title="How fast four Frank–Wolfe rules find the shortest vector",
    caption=(
        "**Figure 2.** Medians over 20 random problems. Left: five tasks, at least one of which gets no weight. Right: eight tasks in "
        "three dimensions with zero inside the hull, where the length of $u$ has to vanish."
    ),
    alt=(
        "Two log-log panels of error against steps for four rules. On the left the line search with away steps drops to rounding; "
        "the others fall like powers. On the right both line searches drop to rounding, and the fixed rules fall like powers."
    ),
    data={"steps": shown}
    | {f"face {r}": v[shown] for r, v in excess.items()}
    | {f"zero {r}": v[shown] for r, v in lengths.items()},
)
for rule, label in names.items():
    print(f"{label}: median excess after {last} steps {lab.approx(excess[rule][last].item(), 2)}")

# %% [markdown]
# The left panel holds a surprise. The *exact* line search from equal weights, as in several codes, loses to a share that is
# fixed beforehand (claim C5c). Its steps zig-zag between the tasks that count, so they are short, and the weight of an idle task is only
# ever multiplied by $1 - \gamma$. Away steps cure that. On the right, with zero inside the hull, the line
# search is fast. But for few tasks no iteration is needed at all: there are only $2^n - 1$ faces to try, and `min_norm_weights` solves the
# problem exactly.
#
# Now the question of section 7, on the same problems. First the smallest example: $K = \binom{1\ 2}{2\ 5}$, where the second weight
# should vanish.

# %% tags=["experiment", "hide-input"]
example = torch.tensor([[1.0, 2.0], [2.0, 5.0]], dtype=torch.float64)
idle = {g: min_norm.simplex_descent(example, 1000, 0.2, g).weights[:, 1] for g in min_norm.GEOMETRIES}
# Many rates at once: to scale K is to scale the rate. For each geometry the rate that ends lowest is shown.
rates = 2.0 ** torch.arange(-2, 6, dtype=torch.float64)
unit_ = edge_gram.abs().amax((-2, -1))
scaled = rates[:, None, None, None] * (edge_gram / unit_[:, None, None])
descent_excess = {}
for g in min_norm.GEOMETRIES:
    path = min_norm.simplex_descent(scaled, last, 1.0, g)
    medians = (path.values * unit_ / rates[:, None] / least - 1).median(-1).values  # (steps + 1, rates)
    descent_excess[g] = medians[:, medians[-1].argmin()].clamp(min=1e-17)
claims.measure(
    "C6",
    {
        "median excess, softmax (%)": 100 * descent_excess["softmax"][-1].item(),
        "median excess, C3 (%)": 100 * excess["average"][last].item(),
    },
)
with lab.style.use() as plt:
    fig, (left, right_) = plt.subplots(1, 2, figsize=(7.6, 4.0))
    moments = np.unique(np.geomspace(1, 1000, 60).astype(int))
    for g, label in (("softmax", "descent in $\\beta$"), ("mirror", "mirror step")):
        left.plot(moments, idle[g][moments].clamp(min=1e-30), marker="", label=label)
        right_.plot(shown[shown <= last], descent_excess[g][shown[shown <= last]], marker="", label=label)
    left.plot(
        moments, 1 / (0.4 * moments), color=lab.style.MUTED, linestyle=":", marker="", label="$1/(2ct)$, section 7"
    )
    right_.plot(shown, excess["average"][shown], marker="", label="the post's iteration")
    left.set(xscale="log", yscale="log", xlabel="steps", ylabel="weight of the idle task", ylim=(1e-12, 3))
    right_.set(xscale="log", yscale="log", xlabel="steps", ylabel="excess $(f - f^*)/f^*$")
    left.legend(loc="lower left")
    right_.legend(loc="lower left")
    lab.style.title(left, "Two tasks, one to be dropped")
    lab.style.title(right_, "The problems of Figure 2")
lab.figure(
    fig,
    name="softmax",
    title="Descent in a softmax is slow where a task is to be dropped",
    caption=(
        "**Figure 3.** Left: the weight of the task that should get none, for two ways to move the same softmax. Right: median excess "
        "over the 20 problems on the left of Figure 2, each with the best of eight fixed rates."
    ),
    alt=(
        "Left panel: the weight falls like one over the number of steps for descent in beta and exponentially for the mirror step. "
        "Right panel: excess against steps for both and for the post's iteration."
    ),
    data={
        "moments": moments,
        "idle softmax": idle["softmax"][moments],
        "idle mirror": idle["mirror"][moments],
        "excess softmax": descent_excess["softmax"],
        "excess mirror": descent_excess["mirror"],
    },
)

# %% [markdown]
# ## 15 A walk to the front
#
# The landscape of section 11. Six starts within a distance of 1.5 from the origin (further out both losses are nearly flat, and any
# gradient method stands still: nearly stationary is not nearly optimal). Two rules: the shortest vector, and the sum of the
# gradients. Both losses are 2-smooth, so for the shortest vector section 1 promises that no loss increases, for rates up to 1; here
# the rate is 0.1.

# %% tags=["experiment", "hide-input"]
centre = torch.ones(2, dtype=torch.float64) / np.sqrt(2)


def landscape(theta):
    """Both losses and their gradients: (starts, 2), (starts, 2, 2)."""
    away_from = torch.stack([theta - centre, theta + centre], -2)
    hill = torch.exp(-away_from.square().sum(-1))
    return 1 - hill, 2 * hill[..., None] * away_from


ring = run.generator("starts")
turn, radius = (torch.rand(6, generator=ring, dtype=torch.float64) for _ in range(2))
turn = (torch.arange(6) + turn) / 6  # one in each sector
starts = (0.5 + radius)[:, None] * torch.stack([torch.cos(2 * np.pi * turn), torch.sin(2 * np.pi * turn)], -1)
walks = {}
for rule in ("min norm", "sum"):
    theta, track = starts, [starts]
    for _ in range(2000):
        _, g = landscape(theta)
        weights = min_norm.min_norm_weights(g @ g.mT) if rule == "min norm" else torch.ones(6, 2, dtype=torch.float64)
        theta = theta - 0.1 * (weights[:, None] @ g)[:, 0]
        track.append(theta)
    walks[rule] = torch.stack(track)
ends = walks["min norm"][-1]
nearest = (ends @ centre).clamp(-1, 1)[:, None] * centre
heights = landscape(walks["min norm"])[0]
claims.measure(
    "C2c",
    {
        "largest distance": (ends - nearest).norm(dim=-1).max().item(),
        "largest increase": (heights[1:] - heights[:-1]).max().item(),
    },
)
front = landscape(torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None] * centre)[0]
axis = torch.linspace(-2, 2, 81, dtype=torch.float64)
grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
with lab.style.use() as plt:
    fig, (left, right_) = plt.subplots(1, 2, figsize=(8.2, 4.3))
    levels = landscape(grid)[0]
    for which in range(2):
        left.contour(axis, axis, levels[..., which], levels=6, colors=lab.style.GRID, linewidths=0.8)
    segment = torch.stack([-centre, centre])
    left.plot(*segment.T, color=lab.style.INK, linewidth=4, alpha=0.35, marker="", label="Pareto points")
    right_.plot(*front.T, color=lab.style.INK, linewidth=4, alpha=0.35, marker="", label="Pareto front")
    for rule, colour, dash in (("min norm", "blue", "-"), ("sum", "orange", "--")):
        for which in range(6):
            options = {"color": lab.style.PALETTE[colour], "linestyle": dash, "marker": "", "linewidth": 1.4}
            label = {"label": {"min norm": "shortest vector", "sum": "sum"}[rule]} if which == 0 else {}
            left.plot(*walks[rule][:, which].T, **options, **label)
            right_.plot(*landscape(walks[rule][:, which])[0].T, **options)
            left.plot(*walks[rule][-1, which], "o", color=lab.style.PALETTE[colour], markersize=5)
            right_.plot(*landscape(walks[rule][-1, which])[0], "o", color=lab.style.PALETTE[colour], markersize=5)
    left.plot(*starts.T, "x", color=lab.style.INK, markersize=6)
    left.set(xlabel="first parameter", ylabel="second parameter", aspect="equal", xlim=(-2, 2), ylim=(-2, 2))
    right_.set(xlabel="$L_1$", ylabel="$L_2$", aspect="equal", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    left.legend(loc="upper left", fontsize=8)
    lab.style.title(left, "In the plane of parameters")
    lab.style.title(right_, "In the plane of losses")
lab.figure(
    fig,
    name="front",
    title="The shortest vector reaches the front; the sum prefers its ends",
    caption=(
        "**Figure 4.** Six starts (crosses), 2000 steps of 0.1. Blue: steps along the shortest vector of the hull. Orange, dashed: steps "
        "along the sum of the gradients. Dots: where they end. The front bulges outward, so no sum of the losses has its "
        "minimum in the middle."
    ),
    alt=(
        "Left: paths in the plane of parameters towards the segment between the two minima. Right: the same paths in the plane of the two "
        "losses, ending on a front that bulges away from the origin."
    ),
    data={"starts": starts, "ends min norm": ends, "ends sum": walks["sum"][-1], "front": front},
)

# %% [markdown]
# Along the blue paths both losses fall in every step, so a path can never run along the front: it stops where it first meets it. In the
# plane of losses the paths run at 45 degrees wherever both tasks have weight: equal gain, each in its own unit (section 4). Which Pareto point that is depends on the start. The method finds *a* compromise; it does not choose one.
#
# ## 16 Three tasks on one trunk
#
# Two handwritten digits are laid over each other on a canvas of 12 × 12 pixels. A network with two hidden layers of 100 units
# reads it, and three linear heads answer: which digit is at the upper left, which at the lower right (cross-entropies), and how
# much more ink the left one has (a squared error). The unit of ink is a tenth of a standard deviation, so the third loss starts
# near 200 and its gradients are large: nothing unusual for losses of different kinds.
#
# Seven rules make one update of the trunk from the three gradients: the plain mean; weights $1/L_i$; weights $1/\|g_i\|$ (section 3's
# recipe, without its guarantee for three tasks); PCGrad (exercise 2); the shortest vector of the hull (MGDA); the same for normalised
# gradients; and MGDA-UB. Each head follows its own loss. All rules start from the same
# weights and see the same batches of 64, with Adam, for 500 steps. A step is called *bad* if some $\langle g_i, u\rangle < 0$: it makes
# a task worse to first order.

# %% tags=["experiment", "hide-input"]
UNIT, UNITS = 10.0, (0.3, 1.0, 3.0, 100.0)
swept = ("MGDA", "MGDA, normalised")
compared = list(multidigits.RULES)
members = [(rule, UNIT) for rule in compared] + [(rule, unit) for unit in UNITS for rule in swept]
found_scores, found_records = [], []
for k_ in range(run.pick(quick=1, full=10)):
    model = multidigits.SharedTrunk(
        len(members),
        width=run.pick(quick=100, full=400) // min(shrink, 4),
        unit=torch.tensor([unit for _, unit in members]),
        generator=run.generator("weights", k_),
    ).to(run.device)
    train_pairs = multidigits.multidigits(3000, part="train", rng=run.rng("train pairs", k_))
    test_pairs = multidigits.multidigits(1000, part="test", rng=run.rng("test pairs", k_))
    record = multidigits.train(
        model,
        train_pairs,
        [rule for rule, _ in members],
        steps=run.pick(quick=500, full=3000) // shrink,
        generator=run.generator("batches", k_),
        desc=f"networks {k_}",
    )
    found_scores.append(multidigits.held_out_scores(model, test_pairs))
    found_records.append(record)
scores = np.mean(found_scores, 0)  # (members, tasks)
bad = 100 * np.mean([(record.descent.min(-1) < -1e-9).mean(0) for record in found_records], 0)
bad_adam = 100 * np.mean([(record.adam.min(-1) < -1e-6).mean(0) for record in found_records], 0)
conflicted = 100 * np.mean([(record.conflicts > 0).mean(0) for record in found_records], 0)
where = {member: number for number, member in enumerate(members)}
claims.measure("C2b", {f"bad steps, {rule}": bad[where[rule, UNIT]] for rule in ("MGDA", "equal")})
claims.measure("C9b", {"bad steps, MGDA-UB": bad[where["MGDA-UB", UNIT]]})
every_unit = sorted((*UNITS, UNIT))
r2 = {rule: np.array([scores[where[rule, unit], 2] for unit in every_unit]) for rule in swept}
normalised = np.array([scores[where["MGDA, normalised", unit]] for unit in every_unit])
claims.measure(
    "C10",
    {
        "range, MGDA": np.ptp(r2["MGDA"]),
        "range, normalised": np.ptp(r2["MGDA, normalised"]),
        "lowest accuracy (%)": 100 * normalised[:, :2].min(),
        "lowest R2": normalised[:, 2].min(),
    },
)
for rule in compared:
    number = where[rule, UNIT]
    print(
        f"{rule}: left {lab.approx(100 * scores[number, 0], unit='%')}, right {lab.approx(100 * scores[number, 1], unit='%')}, "
        f"R² {lab.approx(scores[number, 2])}, bad steps {lab.approx(bad[number], 2, unit='%')}, "
        f"with Adam {lab.approx(bad_adam[number], 2, unit='%')}, conflicts {lab.approx(conflicted[number], 2, unit='%')}"
    )

# %% tags=["experiment", "hide-input"]
rows = np.arange(len(compared))[::-1]
with lab.style.use() as plt:
    fig, (left, right_) = plt.subplots(1, 2, figsize=(8.6, 4.2), sharey=True)
    for column, (task, mark) in enumerate(
        (("left digit (accuracy)", "o"), ("right digit (accuracy)", "s"), ("ink ($R^2$)", "D"))
    ):
        values = [scores[where[rule, UNIT], column] for rule in compared]
        left.plot(values, rows + 0.17 * (1 - column), linestyle="none", marker=mark, markersize=8, label=task)
    own = [bad[where[rule, UNIT]] for rule in compared]
    adams = [bad_adam[where[rule, UNIT]] for rule in compared]
    right_.barh(rows + 0.19, own, height=0.36, label="the update $u$")
    right_.barh(rows - 0.19, adams, height=0.36, label="what Adam makes of it", alpha=0.55)
    left.set_yticks(rows, compared)
    left.set(xlabel="on new digits", ylabel="rule", xlim=(0, 1))
    right_.set(xlabel="steps that make a task worse (%)")
    left.legend(loc="upper left", fontsize=8)
    right_.legend(loc="best", fontsize=8)
    lab.style.title(left, "How well each task is learned")
    lab.style.title(right_, "How often a task gets worse")
lab.figure(
    fig,
    name="digits",
    title="Seven rules for three tasks",
    caption=(
        "**Figure 5.** Left: accuracy of both labels and $R^2$ of the ink on test digits. Right: the share of steps with some "
        "$\\langle g_i, u\\rangle < 0$, for the update itself and for the step that Adam makes of it."
    ),
    alt=(
        "Left panel: dots for three tasks in seven rows, one for each rule. Right panel: bars with the share of bad steps; for MGDA and "
        "its normalised form the first bar has no length."
    ),
    data={
        "rules": np.arange(len(compared)),
        "scores": np.array([scores[where[r, UNIT]] for r in compared]),
        "bad": own,
        "bad adam": adams,
    },
)

# %% [markdown]
# Three things can be read from the figure. First, the theorem at work: the min-norm update is never bad, and its shortcut often is.
# Second, a guarantee to first order is not the same as good results: without normalisation MGDA (and its shortcut more so) starves the
# task with the large gradients. Third, a trap: *Adam changes the direction*, and with it the guarantee is gone, for every rule. (Other traps:
# momentum mixes in old directions; the weights depend on the noise of the batch that they weigh; and a Gram matrix in half precision is
# not positive any more.)
#
# How much the unit of the third loss matters is seen by changing it.

# %% tags=["experiment", "hide-input"]
with lab.style.use() as plt:
    fig, ax = plt.subplots(figsize=(7.2, 4.0))
    for rule in swept:
        ax.plot(every_unit, r2[rule], label=f"{rule}: ink ($R^2$)")
        both_labels = [scores[where[rule, unit], :2].mean() for unit in every_unit]
        ax.plot(every_unit, both_labels, label=f"{rule}: labels (accuracy)")
    ax.set(
        xscale="log",
        xlabel="ink counted in units of $1/x$ standard deviations: $x$",
        ylabel="on new digits",
        ylim=(0, 1),
    )
    ax.legend(loc="lower left")
lab.figure(
    fig,
    name="units",
    title="The unit of one loss decides what MGDA learns, unless gradients are normalised",
    caption=(
        "**Figure 6.** Test scores when the ink is measured in units of $1/x$ standard deviations; nothing else changes. Equal gains "
        "in each task's own unit mean little progress in a task whose unit is small."
    ),
    alt="Scores against the unit of the third loss. The normalised rule is flat; for plain MGDA the ink's score falls for large values.",
    data={"unit": every_unit} | {f"R2 {rule}": values for rule, values in r2.items()},
)

# %% [markdown]
# A full run also takes the time of one step, with the exact gradients of all tasks and with the shortcut.

# %% tags=["experiment", "hide-input"]
if run.scale == "full":
    tasks, sizes_, seconds = (
        8,
        [width_ for width_ in (180, 560, 1800, 5600) if width_ // shrink >= 16],
        {"MGDA": [], "MGDA-UB": []},
    )
    for width_ in sizes_:
        width_ = width_ // shrink
        draw = run.generator("one step", width_)

        def dense(outputs, width=width_, draw=draw):
            """A linear layer on the width of the encoder."""
            layer = torch.nn.utils.skip_init(torch.nn.Linear, width, outputs)
            torch.nn.init.normal_(layer.weight, std=width**-0.5, generator=draw)
            torch.nn.init.zeros_(layer.bias)
            return layer.to(run.device)

        trunk = torch.nn.Sequential(*(part for _ in range(3) for part in (dense(width_), torch.nn.ReLU())))
        heads = torch.nn.ModuleList(dense(10) for _ in range(tasks))
        x_ = torch.randn(64, width_, generator=draw).to(run.device)
        losses_ = [lambda z, head=head: head(z).square().mean() for head in heads]
        parameters = list(trunk.parameters())

        def exact_step(trunk=trunk, x_=x_, losses_=losses_, parameters=parameters):
            """All gradients, their Gram matrix, the weights, the update."""
            found = multitask.shared_gradients(trunk(x_), losses_, parameters)
            return found.combined(min_norm.min_norm_weights(found.gramian()))

        def cheap_step(trunk=trunk, x_=x_, losses_=losses_, parameters=parameters):
            """Weights from the representation, then one pass through the trunk."""
            z = trunk(x_)
            found = multitask.shared_gradients(z, losses_)
            weights = multitask.mgda_ub_weights(found.representation)
            return torch.autograd.grad(z, parameters, torch.einsum("n,n...->...", weights, found.representation))

        for name, job in (("MGDA", exact_step), ("MGDA-UB", cheap_step)):
            taken = []
            for _ in range(12):
                if run.device.type == "cuda":
                    torch.cuda.synchronize()
                begin = clock.perf_counter()
                job()
                if run.device.type == "cuda":
                    torch.cuda.synchronize()
                taken.append(clock.perf_counter() - begin)
            seconds[name].append(float(np.median(taken[2:])))
    claims.measure("C8c", {"time ratio": seconds["MGDA-UB"][-1] / seconds["MGDA"][-1]})
    with lab.style.use() as plt:
        fig, ax = plt.subplots()
        amount = [3 * (width_ // shrink) ** 2 for width_ in sizes_]
        for name, values in seconds.items():
            ax.plot(amount, 1000 * np.array(values), label=name)
        ax.set(xscale="log", yscale="log", xlabel="parameters of the encoder", ylabel="one step (ms)")
        ax.legend()
    lab.figure(
        fig,
        name="cost",
        title="What the gradients of eight tasks cost",
        caption="**Figure 7.** Median time of a step: all gradients of the encoder in one batched pass, and the shortcut.",
        alt="Time of a step against the number of parameters, one curve for MGDA and one for MGDA-UB.",
        data={"parameters": amount} | seconds,
        clocked=seconds,
    )
else:
    print("The time of a step is taken in a full run only.")

# %% [markdown]
# ## 17 The claims

# %% tags=["experiment"]
claims.table()

# %% [markdown]
# ## 18 What to keep
#
# The shortest vector $u$ in the convex hull of the gradients has $\langle g_i, u\rangle \ge \|u\|^2$ for every task, so that no loss
# increases for any rate up to $2/\max\beta_i$; and it is zero only where no common descent exists. It needs only the inner products of the gradients; for few tasks
# solve it exactly, and normalise the gradients first, because otherwise the unit of each loss decides. The shortcut through a
# shared representation saves time and keeps the stationary points, but not the promise that no task gets worse, and neither does Adam.
#
# ### Exercises
#
# **1. A harmless encoder.** For which Jacobians $J$ do MGDA and MGDA-UB give the same weights, whatever the tasks are?
#
# <details><summary>Solution</summary>
#
# If $JJ^\top$ is a multiple $c^2$ of the identity, all inner products are multiplied by the same $c^2$: $\langle g_i, g_j\rangle = c^2\langle
# a_i, a_j\rangle$, and the weights agree. The next cell checks it for a rotation followed by a scaling. (Conversely, if $JJ^\top$
# stretches two directions differently, tasks can be found that get different weights.)
#
# </details>

# %% tags=["hide-cell"]
turned, factor = Symbol("omega", real=True), Symbol("c", positive=True)
spin = factor * Matrix([[cos(turned), sin(turned)], [-sin(turned), cos(turned)]])
left_row, right_row = Matrix([sp.symbols("a_1 a_2", real=True)]), Matrix([sp.symbols("b_1 b_2", real=True)])
D.exact(
    "D13.1",
    eq((left_row * spin).dot(right_row * spin), factor**2 * left_row.dot(right_row)),
    by="a rotation keeps inner products",
)

# %% [markdown]
# **2. Another rule for two tasks.** PCGrad ([arXiv 2001.06782](https://arxiv.org/abs/2001.06782)) removes from each of two conflicting
# gradients its component along the other one, and adds what is left. Does the sum make neither task worse?
#
# <details><summary>Solution</summary>
#
# Yes. The second part is at right angles to $g_1$, and the first part has $\langle g_1, u\rangle = p - r^2/q$, which is $p\sin^2\varphi$. For
# three tasks the order of the removals matters, and a later one can undo an earlier one: Figure 5 shows whether it did.
#
# </details>

# %% tags=["hide-cell"]
conflict = {r: sqrt(p * qq) * cos(phi)}
freed = (1 - r / p) * p + (1 - r / qq) * r  # <g_1, u> for u = (1 - r/p) g_1 + (1 - r/q) g_2
display(
    D.exact(
        "D13.2",
        eq(freed, p - r**2 / qq),
        by="$\\langle g_1, u\\rangle$ for $u = g_1 - \\frac rq g_2 + g_2 - \\frac rp g_1$",
    ),
    D.exact("D13.3", eq((p - r**2 / qq).subs(conflict), p * sin(phi) ** 2), by="with the angle between the gradients"),
)

# %% [markdown]
# **3. Three tasks at 120 degrees.** Three gradients of lengths $a$, $b$ and $c$ point from the centre of a triangle in directions 120
# degrees apart. Which weights solve the problem?
#
# <details><summary>Solution</summary>
#
# Zero is inside the hull, so $u = 0$: weights in proportion to $1/a$, $1/b$ and $1/c$ cancel. The point is Pareto stationary, however
# different the lengths are.
#
# </details>

# %% tags=["hide-cell"]
third = 2 * pi / 3
display(
    *(
        D.exact(f"D13.{number}", eq(f(phi) + f(phi + third) + f(phi - third), 0), by=text)
        for number, f, text in ((4, cos, "three unit vectors at 120 degrees cancel"), (5, sin, "the other entry"))
    )
)

# %% [markdown]
# ### Where the idea went since
#
# The method is older than its use in deep learning: Désidéri (2012) calls it MGDA, for multiple-gradient descent. CAGrad
# ([arXiv 2110.14048](https://arxiv.org/abs/2110.14048)) looks for the best worst case near the mean gradient. Nash-MTL
# ([arXiv 2202.01017](https://arxiv.org/abs/2202.01017)) bargains, and does not depend on the units of the losses. TorchJD
# ([arXiv 2406.16232](https://arxiv.org/abs/2406.16232)) collects such rules for PyTorch. That Frank–Wolfe with $1/(k+1)$ averages
# greedily chosen vectors is known as herding ([arXiv 1203.4523](https://arxiv.org/abs/1203.4523)). The post's third part treats one main
# task with helpers ([8907](https://kexue.fm/archives/8907)).
