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
#     archive: 9512
#     title_zh: Tiger：一个“抠”到极致的优化器
#     title_en: "Tiger: a tight-fisted optimizer"
#     date: 2023-03-07
#     prerequisites: [accumulation-in-momentum, amos-schedules, mixed-precision-and-compilation, gradient-flow]
#     minutes: {quick: 1, full: 30}
# ---

# %% [markdown]
# # How little memory does an optimizer need?
#
# *Tiger: a tight-fisted optimizer* · <span lang="zh">Tiger：一个“抠”到极致的优化器</span>
#
# > **Post** [<span lang="zh">Tiger：一个“抠”到极致的优化器</span>](https://kexue.fm/archives/9512) by Su Jianlin
# > (<span lang="zh">苏剑林</span>), 2023-03-07. This chapter is an independent work, in words of its own.
#
# **The question.** Adam keeps two numbers for every parameter, and a third one if gradients are accumulated over several
# small batches. How little state is enough? And which learning rate should each kind of parameter get, so that one number
# serves a small model and a large one, even in half precision, even if now and then a gradient is not a number?
#
# **The answer in one sentence.** One buffer is enough, for the momentum and for the accumulation, and that is exact; a
# learning rate relative to the size of the weights halves the dependence on the width but does not remove it; and half
# precision has the range for all of it, but not the resolution.
#
# **Abstract.** Tiger moves every weight by the sign of a momentum. We prove that gradient accumulation fits into that one
# buffer, and that it cannot for Lion. We derive which size the weights reach under weight decay, and which steps half
# precision rounds away. Then we train small networks to see how far the relative learning rate carries over between
# widths, what shrinking does after a bad gradient, and what rounding costs.
#
# <p lang="zh"><b>摘要。</b>Tiger用动量的符号来更新参数。本章证明：梯度累积可以完全放进这唯一的动量缓存，而Lion做不到。然后推导权重衰减下参数的平衡尺度，以及半精度会舍去哪些更新。最后用小模型实验检验相对学习率在不同宽度间的可迁移性、NaN之后收缩参数的作用，以及舍入的代价。</p>

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
from sympy import Abs, Derivative, Function, O, Rational, Sum, Symbol, exp, log, oo, sign, sqrt

from kexue_lib.derive import Derivation, Integer, Interval, OneOf, eq, gt, le, lt, mean, tends

# %% [markdown]
# ## 1 The rule
#
# Training meets a gradient $g_t$ at step $t$. **Momentum** is a running mean of the gradients, with a factor $\beta < 1$
# by which the past fades. **Tiger** moves every entry $\theta$ of the parameters by the same distance $\eta$, in the direction
# of the *sign* of the momentum. And it pulls every entry a little to zero, in proportion to a **weight decay** $\lambda$.
# What is the sign of zero? Zero.
#
# Every numbered line below was checked by the machine that made this page, or is marked as defined, assumed or cited. The
# badge says which, and how; the code that did it is one click away. All lines are about one entry, because every entry of a
# tensor is treated alike; $m$ is its momentum before the step and $m_+$ after it.

# %% tags=["hide-input"]
theta, m, g = sp.symbols("theta m g", real=True)
beta, beta1, beta2 = sp.symbols("beta beta_1 beta_2", positive=True)
eta, lam = sp.symbols("eta lambda", positive=True)
b1, b2 = sp.symbols("b_1 b_2", positive=True)
momentum = Symbol("m_+", real=True)
tiger = Symbol(r"\theta_+", real=True)

unit = Interval(0.05, 0.95)
D = Derivation(
    "tiger-optimizer",
    domain={
        beta: unit,
        beta1: unit,
        beta2: unit,
        b1: unit,
        b2: unit,
        eta: Interval(0.001, 0.5),
        lam: Interval(0.001, 0.5),
    },
)
display(
    D.define("D1.1", eq(momentum, beta * m + (1 - beta) * g), by="the momentum"),
    D.define("D1.2", eq(tiger, theta - eta * (sign(momentum) + lam * theta)), by="Tiger's step"),
)

# %% [markdown]
# Its elder brother is **Lion**, found by a search over programs. Lion has two factors: it steps along the sign of a mixture
# made with $\beta_1$, and then stores another mixture, made with $\beta_2$. Let $L_\theta$ and $L_m$ be what Lion makes of the
# entry and of its momentum.

# %% tags=["hide-input"]
lion, lion_momentum = Function("L_theta", real=True), Function("L_m", real=True)
display(
    D.define(
        "D1.3",
        eq(lion(b1, b2), theta - eta * (sign(b1 * m + (1 - b1) * g) + lam * theta)),
        by="Lion's step: the sign of one mixture",
    ),
    D.define("D1.4", eq(lion_momentum(b1, b2), b2 * m + (1 - b2) * g), by="Lion's memory: another mixture"),
    D.exact("D1", eq(lion(beta, beta), tiger), by="for equal factors Lion takes Tiger's step"),
    D.exact("D1.5", eq(lion_momentum(beta, beta), momentum), by="and keeps Tiger's momentum"),
)

# %% [markdown]
# So Tiger is Lion with one factor instead of two. (It is also SIGNUM of 2018 with a decoupled weight decay.) Which factor?
# The author takes the middle between the two that are usual for Lion: $(0.9, 0.99)$ in vision and $(0.95, 0.98)$ in language.
# How far back does such a memory reach? The weight of a gradient that is $a$ steps old is $(1-\beta)\beta^a$.

# %% tags=["hide-input"]
age = Symbol("a", integer=True, nonnegative=True)
middle, mean_age = Function("M", positive=True), Function("A", positive=True)
q = Symbol("q", positive=True)  # beta as a number below one: beta = 1/(1 + q)
count = Symbol("t", integer=True, positive=True)
display(
    D.define("D1.6", eq(middle(b1, b2), (b1 + b2) / 2), by="the middle"),
    D.exact("D1.7", eq(middle(Rational(9, 10), Rational(99, 100)), Rational(945, 1000)), by="0.945 for vision"),
    D.exact("D1.8", eq(middle(Rational(95, 100), Rational(98, 100)), Rational(965, 1000)), by="0.965 for language"),
    D.exact(
        "D1.9",
        eq(Sum((1 - beta) * beta**age, (age, 0, count - 1)), 1 - beta**count),
        by="weights of the last $t$ gradients: a geometric sum",
        put={beta: 1 / (1 + q)},
        domain={count: Integer(1, 12)},
    ),
    D.define("D1.10", eq(mean_age(beta), beta / (1 - beta)), by="a name for the right side of D1.11"),
    D.exact(
        "D1.11",
        eq((1 - beta) * beta * Derivative(1 / (1 - beta), beta), mean_age(beta)),
        by="mean age of a gradient: differentiate the geometric series $\\sum_a \\beta^a = 1/(1-\\beta)$",
    ),
    D.exact("D1.12", eq(mean_age(Rational(965, 1000)), Rational(193, 7)), by="about 28 steps for $\\beta = 0.965$"),
)

# %% [markdown]
# ## 2 Accumulation inside the momentum
#
# A batch that does not fit into memory is cut into $k$ micro-batches, and their gradients $g_1, \dots, g_k$ are averaged.
# Usually the average is collected in a buffer of its own. Tiger needs none. Within a block of $k$ micro-steps the momentum
# decays **once**, on the first one; each gradient is added with the weight $(1-\beta)/k$; and the parameters move once, on the
# last one. With a switch $\chi$ that is 1 on the first micro-step and 0 on the others, the factor of the old momentum is
# $(\beta - 1)\chi + 1$.

# %% tags=["hide-input"]
k, i = sp.symbols("k i", integer=True, positive=True)
chi, start = sp.symbols("chi m_0", real=True)
g1, g2, g3 = sp.symbols("g_1 g_2 g_3", real=True)
micro, block = Function("mu", real=True), Function("B", real=True)
D.domain.update({k: Integer(1, 8), chi: OneOf(0, 1)})
display(
    D.define(
        "D2.1",
        eq(micro(m, g, chi, k), ((beta - 1) * chi + 1) * m + (1 - beta) / k * g),
        by="one micro-step, as the post writes it",
    ),
    D.exact("D2.2", eq(micro(m, g, 1, k), beta * m + (1 - beta) / k * g), by="first micro-step of a block: decay"),
    D.exact("D2.3", eq(micro(m, g, 0, k), m + (1 - beta) / k * g), by="all others: no decay"),
)

# %% [markdown]
# Run the recursion for a block of two and for one of three. What comes out is the momentum of *one* step with the mean
# gradient.

# %% tags=["hide-input"]
display(
    D.exact(
        "D2.4",
        eq(micro(micro(start, g1, 1, 2), g2, 0, 2), beta * start + (1 - beta) * (g1 + g2) / 2),
        by="$k = 2$",
    ),
    D.exact(
        "D2.5",
        eq(
            micro(micro(micro(start, g1, 1, 3), g2, 0, 3), g3, 0, 3),
            beta * start + (1 - beta) * (g1 + g2 + g3) / 3,
        ),
        by="$k = 3$",
    ),
)

# %% [markdown]
# The same for every $k$, by induction. Let $S$ be the sum of the gradients so far. The form $B(S)$ below is right after the
# first micro-step, and every other micro-step takes $B(S)$ to $B(S + g)$. At the end of the block $S$ is $k$ times the mean
# $\bar g$.

# %% tags=["hide-input"]
so_far, mean_gradient = sp.symbols("S gbar", real=True)
display(
    D.define(
        "D2.6",
        eq(block(so_far, k), beta * start + (1 - beta) / k * so_far),
        by="a form for the momentum inside a block",
    ),
    D.exact("D2.7", eq(micro(start, g, 1, k), block(g, k)), by="it starts right: the first micro-step"),
    D.exact(
        "D2.8",
        eq(micro(block(so_far, k), g, 0, k), block(so_far + g, k)),
        by="it stays right: every other micro-step",
    ),
    D.exact(
        "D2",
        eq(block(k * mean_gradient, k), beta * start + (1 - beta) * mean_gradient),
        by="at the end of the block: one step with the mean gradient, for every $k$",
        uses=["D2.7", "D2.8"],
    ),
)

# %% [markdown]
# Nothing else changes inside a block. The parameters stand still, so every micro-batch sees the same network, and a step size
# that depends on the parameters stays the same too. The equality is exact for the whole optimizer.
#
# **Why not Lion?** At the end of a block Lion needs two numbers made from the old momentum $m$ and the mean gradient $g$: the
# mixture whose sign it follows, and the mixture that it stores. A buffer that took in the gradients one by one holds one
# mixture of $m$ and $g$. Two different ones follow from it only if they are multiples of each other, that is, if their
# determinant vanishes.

# %% tags=["hide-input"]
shift = Symbol("tau", real=True)
lost = {m: m + (1 - beta1) * shift, g: g - beta1 * shift}
step_mix, memory_mix = beta1 * m + (1 - beta1) * g, beta2 * m + (1 - beta2) * g
display(
    D.exact(
        "D3",
        eq(beta1 * (1 - beta2) - beta2 * (1 - beta1), beta1 - beta2),
        by="the determinant of the two mixtures vanishes for equal factors only",
    ),
    D.exact(
        "D3.1",
        eq(step_mix.subs(lost, simultaneous=True), step_mix),
        by="change $m$ by $(1-\\beta_1)\\tau$ and $g$ by $-\\beta_1\\tau$: Lion's step does not see it",
    ),
    D.exact(
        "D3.2",
        eq(memory_mix.subs(lost, simultaneous=True) - memory_mix, (beta2 - beta1) * shift),
        by="but what it has to store does",
    ),
)

# %% [markdown]
# So no buffer that mixes the gradients linearly can serve Lion with $\beta_1 \ne \beta_2$. (Two real numbers can of course be
# packed into one by tricks; nobody would call that one buffer.)
#
# How much memory is that? Count copies of the parameters beside the parameters themselves, with accumulation, and with
# gradients that are dropped as soon as they are used:
#
# | optimizer | momentum | second moment | accumulation | copies |
# |---|---|---|---|---|
# | Adam, LAMB | 1 | 1 | 1 | 3 |
# | Lion | 1 | – | 1 | 2 |
# | SGD with momentum | 1 | – | – | 1 |
# | Tiger | 1 | – | – | 1 |
#
# SGD with momentum can hide the accumulation in the same way. In PyTorch there is a catch: `.grad` already *is* an
# accumulation buffer. If it is kept from one micro-batch to the next, Tiger saves nothing. `attach_accumulation_hooks` folds
# each gradient into the momentum during the backward pass and frees it at once. We shall count the bytes below.
#
# ## 3 Freedom from scale, and its limits
#
# The sign does not care how large the momentum is. The momentum is linear in the gradients. So a constant factor $c > 0$ on
# the loss, as mixed precision uses it, needs no correction. A factor that *changes* does: it reweighs the past.

# %% tags=["hide-input"]
c = Symbol("c", positive=True)
c1, c2 = sp.symbols("c_1 c_2", positive=True)
mixture, scaled_step = Function("M_1", real=True), Function("theta_1", real=True)
D.domain.update({c: Interval(0.01, 100), c1: Interval(0.01, 100), c2: Interval(0.01, 100)})
display(
    D.define("D4.1", eq(mixture(b1, m, g), b1 * m + (1 - b1) * g), by="the mixture of a momentum and a gradient"),
    D.define(
        "D4.2",
        eq(scaled_step(c), theta - eta * (sign(mixture(beta, c * m, c * g)) + lam * theta)),
        by="Tiger's step when all gradients carry the factor $c$",
    ),
    D.exact("D4.3", eq(mixture(beta, c * m, c * g), c * momentum), by="the momentum is linear"),
    D.exact("D4", eq(scaled_step(c), tiger), by="a constant factor changes nothing", uses=["D4.3"]),
    D.exact(
        "D4.4",
        eq(mixture(beta, c1 * m, c2 * g), c2 * mixture(beta, c1 / c2 * m, g)),
        by="when it changes from $c_1$ to $c_2$, the past counts $c_1/c_2$ times",
    ),
    D.exact(
        "D4.5",
        eq(mixture(Rational(965, 1000), 1, -10), Rational(615, 1000)),
        by="an example: a momentum of 1 meets a gradient of $-10$ …",
    ),
    D.exact(
        "D4.6",
        eq(mixture(Rational(965, 1000), 1, -80), -Rational(1835, 1000)),
        by="… and the same under a factor that grew from 1 to 8: the sign turns",
    ),
)

# %% [markdown]
# Next the learning rate. A step of $10^{-3}$ is large for a weight of size $0.02$ and small for one of size $2$. Therefore
# the post makes steps *relative*: for matrices $\eta = \alpha R$ with the root mean square $R$ of the tensor. For biases, and
# for the gains and offsets of norms, it is $\eta = \alpha/2$. What does that achieve? Take a loss that does not change when
# the weights are scaled by a factor $s$, as behind a normalisation. Its gradient then scales by $1/s$, its sign not at all. Is
# the step from $s\theta$ just $s$ times the step from $\theta$?

# %% tags=["hide-input"]
n = Symbol("n", integer=True, positive=True)
s = Symbol("s", positive=True)
alpha, R = sp.symbols("alpha R", positive=True)
w = sp.IndexedBase("theta", shape=(n,), real=True)
rms = Function("R", nonnegative=True)
moved = Function("T", real=True)
D.domain.update({alpha: Interval(0.0005, 0.5), R: Interval(0.001, 20), n: Integer(1, 6)})
display(
    D.define("D4.7", eq(rms(s), sqrt(mean((s * w[i]) ** 2, i, n))), by="size of the tensor $s\\theta$"),
    D.exact("D4.8", eq(rms(s), s * rms(1)), by="the size is proportional to $s$"),
    D.define(
        "D4.9",
        eq(moved(s), s * theta - alpha * (s * R) * (sign(m) + lam * s * theta)),
        by="the step from $s\\theta$, where the size is $sR$",
    ),
    D.exact(
        "D4.10",
        eq(moved(s) - s * moved(1), -alpha * lam * R * theta * s * (s - 1)),
        by="equal for every $s$ without decay; with decay they differ",
        uses=["D4.8"],
    ),
)

# %% [markdown]
# So without weight decay the whole trajectory is free of the scale of the weights. With $\lambda > 0$ it is not, because the
# decay itself is multiplied by $\eta$: large tensors decay faster. That is no defect. It gives every tensor a size to which it
# returns; section 4 finds it.
#
# **Is $\alpha$ then the same for every width?** The post says that a relative rate carries over from small models to large
# ones. We can ask what one step does to the output of a layer. Let a layer compute $h_i = \sum_j W_{ij} x_j$ from $n$ inputs,
# and let the momentum be the gradient of a single example. That is an outer product of $\delta_i$ with $x_j$.

# %% tags=["hide-input"]
x, delta = sp.symbols("x delta", real=True)
inputs = sp.IndexedBase("x", shape=(n,), real=True)
error = Symbol("delta_i", real=True)
std, size_in = sp.symbols("sigma X", positive=True)
change, ratio = Symbol(r"\Delta h_i", real=True), Function("rho", positive=True)
width = Symbol("n", positive=True)
display(
    D.numeric("D4.11", eq(sign(delta * x), sign(delta) * sign(x)), by="the sign of an outer product splits"),
    D.numeric("D4.12", eq(sign(x) * x, Abs(x)), by="a number times its sign"),
    D.define(
        "D4.13",
        eq(change, -eta * sign(error) * Sum(sign(inputs[i]) * inputs[i], (i, 1, n))),
        by="what the step does to the output of the layer, on that example",
    ),
    D.exact(
        "D4.14",
        eq(change, -eta * sign(error) * n * mean(Abs(inputs[i]), i, n)),
        made=D["D4.12"].subs(x, inputs[i]).sum(i, 1, n).multiply(-eta * sign(error)),
        by="all terms have one sign: the change grows like $\\eta n$",
    ),
)

# %% [markdown]
# The output itself is a sum of $n$ terms of random sign. If the weights have the size $\sigma$ and the inputs the size $X$, it
# has the size $\sigma X\sqrt n$. So the step changes the output by the fraction $\rho$ of itself, up to the ratio of the mean
# of $|x|$ to its root mean square. For the usual start $\sigma = 1/\sqrt n$ this is $\eta\,n$ for a plain rate, and
# $\alpha\sqrt n$ for a relative one.

# %% tags=["hide-input"]
D.domain.update({std: Interval(0.01, 2), size_in: Interval(0.1, 5), width: Interval(4, 4096)})
display(
    D.define(
        "D4.15",
        eq(ratio(eta, std), eta * width * size_in / (std * size_in * sqrt(width))),
        by="change of the output, relative to the output",
    ),
    D.exact(
        "D4.16", eq(ratio(eta, 1 / sqrt(width)), eta * width), by="plain rate: the best one should fall like $1/n$"
    ),
    D.exact(
        "D4.17",
        eq(ratio(alpha / sqrt(width), 1 / sqrt(width)), alpha * sqrt(width)),
        by="relative rate $\\eta = \\alpha\\sigma$: the best $\\alpha$ should fall like $1/\\sqrt n$",
    ),
)

# %% [markdown]
# These lines are not in the post. They are a scaling argument, not a theorem about training: they say that making the rate
# relative takes away *half* of the exponent. Experiment A will measure both exponents.
#
# ## 4 How large do the weights become?
#
# A sign has no size, so nothing but weight decay limits the weights. Two extremes can be solved. First, let the sign be
# always the same, $+1$, and the rate constant.

# %% tags=["hide-input"]
path = Function("theta", real=True)
first = Symbol("theta_0", real=True)
time = Symbol("t", integer=True, nonnegative=True)
kappa = Symbol("kappa", positive=True)
D.domain.update({time: Integer(0, 12), kappa: Interval(0.01, 1)})
display(
    D.define(
        "D5.1",
        eq(path(time), -1 / lam + (first + 1 / lam) * (1 - eta * lam) ** time),
        by="a candidate for the entry after $t$ steps",
    ),
    D.exact("D5.2", eq(path(0), first), by="it starts right"),
    D.exact(
        "D5.3",
        eq(path(time + 1), path(time) - eta * (1 + lam * path(time))),
        by="it follows Tiger's rule",
    ),
    D.limit(
        "D5.4",
        tends(-1 / lam + (first + 1 / lam) * exp(-kappa * time), time, oo, -1 / lam),
        by="it ends at $-1/\\lambda$; here $\\kappa = -\\log(1-\\eta\\lambda) > 0$",
    ),
)

# %% [markdown]
# For $\lambda = 0.01$ that is $-100$, which is huge for a weight. Can the sign really stay the same? It can, if gradients stop coming: the momentum shrinks,
# but its sign stays. That is the fate of the embedding of a rare token. The author met it later, in
# [archives/9736](https://kexue.fm/archives/9736).

# %% tags=["hide-input"]
fading = Function("mu", real=True)
display(
    D.define("D5.5", eq(fading(time), beta**time * m), by="the momentum after $t$ steps without gradients"),
    D.exact("D5.6", eq(sign(fading(time)), sign(fading(0))), by="it fades, and its sign stays"),
)

# %% [markdown]
# With a *relative* rate such an entry does not move evenly, it grows in proportion to its own size $r$ if all entries of its
# row do the same. As a differential equation this is logistic growth.

# %% tags=["hide-input"]
clock = Symbol("t", nonnegative=True)
r0 = Symbol("r_0", positive=True)
row = Function("r", positive=True)
D.domain.update({clock: Interval(0, 30), r0: Interval(0.01, 0.9)})
half = Function("t_h", nonnegative=True)
display(
    D.define(
        "D5.7",
        eq(row(clock), 1 / (lam + (1 / r0 - lam) * exp(-alpha * clock))),
        by="a candidate for the size of the row",
    ),
    D.exact("D5.8", eq(row(0), r0), by="it starts right"),
    D.exact(
        "D5.9",
        eq(Derivative(row(clock), clock), alpha * row(clock) * (1 - lam * row(clock))),
        by="logistic growth: step $\\alpha r$ outwards, decay $\\alpha r\\cdot\\lambda r$",
    ),
    D.define("D5.10", eq(half(lam, r0, alpha), log((1 - lam * r0) / (lam * r0)) / alpha), by="a time"),
    D.exact("D5.11", eq(row(half(lam, r0, alpha)), 1 / (2 * lam)), by="then the row has reached half of its limit"),
    D.exact(
        "D5.12",
        eq(half(Rational(1, 100), Rational(1, 50), Rational(1, 1000)), 1000 * log(4999)),
        by="from 0.02 on the way to 100 at $\\alpha = 0.001$: half-way after about 8517 steps",
    ),
)

# %% [markdown]
# The other extreme: the signs are random, $+1$ or $-1$ with equal chances, independent of the entry. Average the square of an
# entry over both signs.

# %% tags=["hide-input"]
balance = Function("R_*", positive=True)


def after(direction):
    """An entry after one relative step."""
    return theta - alpha * R * (direction + lam * theta)


display(
    D.exact(
        "D5.13",
        eq((after(1) ** 2 + after(-1) ** 2) / 2, (1 - alpha * lam * R) ** 2 * theta**2 + alpha**2 * R**2),
        by="average over both signs",
    ),
    D.define("D5.14", eq(balance(alpha, lam), (1 - sqrt(1 - alpha**2)) / (alpha * lam)), by="a size"),
    D.exact(
        "D5",
        eq(
            (1 - alpha * lam * balance(alpha, lam)) ** 2 * balance(alpha, lam) ** 2
            + alpha**2 * balance(alpha, lam) ** 2,
            balance(alpha, lam) ** 2,
        ),
        by="a tensor of that size keeps it: growth and decay balance",
        uses=["D5.13"],
    ),
    D.series(
        "D5.15",
        eq(balance(alpha, lam), alpha / (2 * lam) + O(alpha**3)),
        by="for small rates the balance is at $\\alpha/(2\\lambda)$",
    ),
    D.exact(
        "D5.16",
        gt(balance(Rational(1, 1000), Rational(1, 100)), Rational(5, 100)),
        by="for $\\alpha = 0.001$ and $\\lambda = 0.01$ …",
    ),
    D.exact("D5.17", lt(balance(Rational(1, 1000), Rational(1, 100)), Rational(500001, 10**7)), by="… it is 0.05"),
)

# %% [markdown]
# A balance at $0.05$: that is the usual size of a weight in a matrix with a few hundred inputs. So the recommended $\alpha$ and
# $\lambda$ belong together. How fast is the balance reached? Look at how a relative deviation of the size is passed on from one
# step to the next: by the slope of $\log G$ against $\log R$, where $G$ is the size after one step.

# %% tags=["hide-input"]
gain, plain_balance = Function("G", positive=True), Function("Q_*", positive=True)
root, kept = sqrt(1 - alpha**2), balance(alpha, lam)


def rest(value):
    """What the decay leaves of a tensor of that size."""
    return 1 - alpha * lam * value


display(
    D.define(
        "D5.18", eq(gain(R), R * sqrt((1 - alpha * lam * R) ** 2 + alpha**2)), by="the size after one step, from D5.13"
    ),
    D.exact(
        "D5.19",
        eq(R * Derivative(log(gain(R)), R), 1 - alpha * lam * R * rest(R) / (rest(R) ** 2 + alpha**2)),
        by="the slope",
    ),
    D.exact(
        "D5.20",
        eq(
            1 - alpha * lam * kept * rest(kept) / (rest(kept) ** 2 + alpha**2),
            1 - root * (1 - root),
        ),
        by="the slope at the balance",
        uses=["D5.19"],
    ),
    D.series(
        "D5.21",
        eq(1 - root * (1 - root), 1 - alpha**2 / 2 + alpha**4 / 8 + O(alpha**6)),
        by="so a deviation lives for about $2/\\alpha^2$ steps",
    ),
    D.define(
        "D5.22",
        eq(plain_balance(eta, lam), sqrt(eta / (lam * (2 - eta * lam)))),
        by="the same question for a plain rate $\\eta$",
    ),
    D.exact(
        "D5.23",
        eq((1 - eta * lam) ** 2 * plain_balance(eta, lam) ** 2 + eta**2, plain_balance(eta, lam) ** 2),
        by="a tensor of that size keeps it",
    ),
)

# %% [markdown]
# At $\alpha = 10^{-3}$ that is two million steps. In a shorter training, random signs alone do not bring a tensor to its
# balance. The signs of real training lie between the two extremes.
#
# ## 5 Half precision: the range is there, the resolution is not
#
# The post argues that everything in Tiger fits into the range of 16-bit numbers. The momentum is a mean of gradients, so it
# never exceeds the largest of them; the sign is $-1$, $0$ or $1$; and the step is at least the smallest positive number of
# the format FP16, which is $2^{-24}$, about $6\cdot 10^{-8}$. As a statement about range this is right.

# %% tags=["hide-input"]
bound = Symbol("B", positive=True)
short_m, short_g = sp.symbols("u v", nonnegative=True)
D.exact(
    "D6.1",
    le(beta * (bound - short_m) + (1 - beta) * (bound - short_g), bound),
    put={beta: 1 / (1 + q)},
    tight={short_m: 0, short_g: 0},
    by="momentum and gradient at most $B$: so is the new momentum (the same from below)",
)

# %% [markdown]
# But a number is not only small or large. A floating-point number with $p$ significant bits is $f\cdot 2^e$ with $1 \le f < 2$,
# and its neighbours are $2^{e-p+1}$ away. A change of less than half that distance is rounded away. Relative to the number, half
# the distance is $2^{-p}/f$.

# %% tags=["hide-input"]
bits, exponent = Symbol("p", integer=True, positive=True), Symbol("e", integer=True)
fraction = Symbol("f", positive=True)
spacing, part = Function("S", positive=True), Symbol("z", nonnegative=True)
D.domain.update({bits: Integer(2, 24), exponent: Integer(-10, 10), fraction: Interval(1, 1.99)})
number = fraction * 2**exponent
relative = spacing(bits, exponent) / 2 / number
display(
    D.define("D6.2", eq(spacing(bits, exponent), 2 ** (exponent - bits + 1)), by="distance of neighbours"),
    D.exact(
        "D6.3",
        gt(spacing(11, -14), Rational(59, 10**9)),
        by="the smallest positive number of FP16: above $5.9\\cdot10^{-8}$ …",
    ),
    D.exact("D6.4", lt(spacing(11, -14), Rational(60, 10**9)), by="… and below $6.0\\cdot10^{-8}$"),
    D.numeric(
        "D6.5",
        eq(sp.floor(part + Rational(1, 2)), sp.Piecewise((0, part < Rational(1, 2)), (1, True))),
        by="round to the nearest, in units of the distance: a change below one half is lost",
        domain={part: Interval(0, 1.499)},
    ),
    D.exact("D6.6", eq(relative, 2 ** (-bits) / fraction), by="half the distance, relative to the number"),
    D.exact(
        "D6.7",
        eq(2 ** (-bits) - relative, 2 ** (-bits) * (fraction - 1) / fraction),
        by="not negative: so it is at most $2^{-p}$",
    ),
    D.exact(
        "D6",
        eq(relative - 2 ** (-bits - 1), 2 ** (-bits - 1) * (2 - fraction) / fraction),
        by="positive: so it is more than $2^{-p-1}$",
    ),
)

# %% [markdown]
# Tiger moves an entry of size $R$ by the fraction $\alpha$ of itself. If $\alpha < 2^{-p-1}$, such an entry **never moves**.
# FP16 has $p = 11$, and bfloat16 has $p = 8$. Compare with the recommended peak, $\alpha$ from 0.001 to 0.002, and with the
# last rate of the author's own schedule, $0.01 \times 0.00176$.

# %% tags=["hide-input"]
frozen = Function("alpha_0", positive=True)
display(
    D.define("D6.8", eq(frozen(bits), 2 ** (-bits - 1)), by="rates below this move no entry of size $R$"),
    D.exact(
        "D6.9",
        lt(Rational(1, 1000), frozen(8)),
        by="bfloat16 freezes below $2^{-9} \\approx 0.00195$: the low end of the peak …",
    ),
    D.exact("D6.10", lt(frozen(8), Rational(2, 1000)), by="… almost up to its high end"),
    D.exact(
        "D6.11",
        gt(frozen(11), 13 * Rational(1, 100) * Rational(176, 100000)),
        by="FP16 freezes below $2^{-12} \\approx 0.00024$: between 13 …",
    ),
    D.exact(
        "D6.12",
        lt(frozen(11), 14 * Rational(1, 100) * Rational(176, 100000)),
        by="… and 14 times the end of the schedule",
    ),
)

# %% [markdown]
# An example in FP16: $\theta = 0.02$ and a step of $6.8\cdot 10^{-6}$. The step is more than a hundred times the smallest
# positive number, and still nothing happens.

# %% tags=["hide-input"]
display(
    D.exact("D6.13", le(2 ** Rational(-6), Rational(2, 100)), by="0.02 lies between $2^{-6}$ …"),
    D.exact("D6.14", lt(Rational(2, 100), 2 ** Rational(-5)), by="… and $2^{-5}$"),
    D.exact(
        "D6.15", lt(Rational(68, 10**7), spacing(11, -6) / 2), by="the step is smaller than half the distance there"
    ),
    D.exact("D6.16", gt(Rational(68, 10**7), 114 * spacing(11, -14)), by="though 114 times the smallest number"),
)

# %% [markdown]
# Two more things are lost in the same way. A gradient that is small beside the momentum does not change it. And the decay
# disappears when it is added to the sign, as the formula of the step has it: just below 1 the neighbours in FP16 are half as
# far apart as just above, and $1 \pm \lambda|\theta|$ is rounded to 1 if $\lambda|\theta| < 2^{-12}$.

# %% tags=["hide-input"]
display(
    D.exact(
        "D6.17",
        lt(frozen(11) / (1 - Rational(965, 1000)), Rational(7, 1000)),
        by="FP16, $\\beta = 0.965$: the gradient's part of the momentum is lost below this fraction …",
    ),
    D.exact("D6.18", gt(frozen(11) / (1 - Rational(965, 1000)), Rational(69, 10000)), by="… of 0.7 %"),
    D.exact("D6.19", eq(spacing(11, -1) / 2, frozen(11)), by="half the distance just below 1"),
    D.exact("D6.20", eq(spacing(11, 0) / 2, 2 * frozen(11)), by="half the distance just above 1"),
    D.exact(
        "D6.21",
        gt(frozen(11) / Rational(1, 100), Rational(244, 10000)),
        by="so for $\\lambda = 0.01$ weights up to 0.0244 get no decay …",
    ),
    D.exact("D6.22", lt(2 * frozen(11) / Rational(1, 100), Rational(489, 10000)), by="… and all above 0.0489 get it"),
)

# %% [markdown]
# The cures are known. Keep the weights in 32 bits and let only the network compute in 16. Or carry the lost parts along
# (Kahan), which costs the very buffer that one wanted to save. Or round *at random*, up with a probability that makes the mean
# right; that costs nothing but random numbers. (The author has since written, in reply to a reader who asked about bfloat16,
# that he keeps optimizer states and weights in 32 bits.)

# %% tags=["hide-input"]
low, high, exact_value = sp.symbols("a_1 a_2 x", real=True)
up = Symbol("P", real=True)
D.domain.update({low: Interval(-3, -1), high: Interval(0, 3)})
display(
    D.define(
        "D6.23",
        eq(up, (exact_value - low) / (high - low)),
        by="probability to round up, between neighbours $a_1 < a_2$",
    ),
    D.exact(
        "D6.24",
        eq(up * high + (1 - up) * low, exact_value),
        by="on average the rounded number is right",
    ),
)

# %% [markdown]
# ## 6 After a bad gradient
#
# In half precision a gradient may come out as infinite or as NaN ("not a number"). The post's remedy: leave out the update, and
# shrink the tensor a little towards its centre $z$, with a factor $s = 0.99$. The centre is 1 for the gain of a norm, and 0 for
# everything else. After $t$ such hits in a row:

# %% tags=["hide-input"]
hit = Function("theta", real=True)
centre = Symbol("z", real=True)
shrink_by = Symbol("s", positive=True)
shrunk = Function("q", real=True)
D.domain.update({shrink_by: Interval(0.5, 0.999)})
display(
    D.define("D7.1", eq(shrunk(time), (first - centre) * shrink_by**time + centre), by="a candidate"),
    D.exact("D7.2", eq(shrunk(0), first), by="it starts right"),
    D.exact("D7.3", eq(shrunk(time + 1), (shrunk(time) - centre) * shrink_by + centre), by="each hit shrinks once"),
    D.exact(
        "D7",
        eq(shrunk(time) - centre, shrink_by**time * (first - centre)),
        by="the distance to the centre after $t$ hits",
    ),
    D.exact(
        "D7.4",
        gt(log(2) / -log(Rational(99, 100)), 68),
        by="half of the distance is left after $t = \\log 2/(-\\log s)$ hits: more than 68 …",
    ),
    D.exact("D7.5", lt(log(2) / -log(Rational(99, 100)), 69), by="… and less than 69 for $s = 0.99$"),
)

# %% [markdown]
# Why shrink, and not only skip? If the same large weights overflow on every batch, skipping changes nothing, for ever. Smaller
# weights overflow less. For a bad batch that comes by chance, shrinking should make no difference. Experiment D tests both.
#
# ## 7 A conjecture for the end of training
#
# A sign step does not become smaller near a minimum. The post suggests, without having tried it, to let the direction change
# from the sign to the momentum itself while training goes on, with an exponent $\gamma$ that falls from 1 to 0.

# %% tags=["hide-input"]
direction, gam = Function("u", real=True), Symbol("gamma", real=True)
nonzero = Symbol("m", real=True, nonzero=True)
D.domain.update({gam: Interval(0, 1)})
display(
    D.define(
        "D8.1", eq(direction(nonzero, gam), sign(nonzero) * Abs(nonzero) ** (1 - gam)), by="a direction between both"
    ),
    D.exact("D8", eq(direction(nonzero, 1), sign(nonzero)), by="$\\gamma = 1$: Tiger"),
    D.exact("D8.2", eq(direction(nonzero, 0), nonzero), by="$\\gamma = 0$: SGD with momentum"),
    D.exact(
        "D8.3",
        eq(direction(c * nonzero, gam), c ** (1 - gam) * direction(nonzero, gam)),
        by="between them it is no longer free of scale: a loss scale must then be undone",
    ),
)
