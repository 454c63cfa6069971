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
# | AdaFactor (with momentum) | – (1) | a little | 1 | 1.x (2.x) |
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
# for the gains and offsets of norms, it is $\eta = \alpha/2$. (In the author's code an embedding has one $R$ for every row. And a tensor of
# zeros would never move, since its $R$ is 0; the option `min_rms` is for that.) What does that achieve? Take a loss that does not change when
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
size_out = Function("H", positive=True)
display(
    D.define(
        "D4.15",
        eq(size_out(std), std * size_in * sqrt(width)),
        by="size of the output in this model: the standard deviation of $n$ independent terms",
    ),
    D.define(
        "D4.16",
        eq(ratio(eta, std), eta * width * size_in / size_out(std)),
        by="change of the output, relative to the output",
    ),
    D.exact(
        "D4.17", eq(ratio(eta, 1 / sqrt(width)), eta * width), by="plain rate: the best one should fall like $1/n$"
    ),
    D.exact(
        "D4.18",
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
        tends(D["D5.1"].rhs.subs(eta, (1 - exp(-kappa)) / lam), time, oo, -1 / lam),
        by="it ends at $-1/\\lambda$; $\\kappa > 0$ is put for $-\\log(1-\\eta\\lambda)$",
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
    D.exact(
        "D6.23",
        gt(frozen(11), 488 * Rational(1, 1000) * Rational(5, 100) * Rational(1, 100)),
        by="applied by itself: $\\eta\\lambda = \\alpha R\\lambda = 0.001 \\cdot 0.05 \\cdot 0.01$ is 488 times too small for FP16",
    ),
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
        "D6.24",
        eq(up, (exact_value - low) / (high - low)),
        by="probability to round up, between neighbours $a_1 < a_2$",
    ),
    D.exact(
        "D6.25",
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

# %% [markdown]
# ## 8 What will be tested, and by which rule
#
# The post makes nine claims. Where a claim has parts with different fates, the parts have rows of their own. Each gets its rule
# here, before anything is measured. A claim *holds* when every condition of its rule is met, *partly* when some are, and *fails* when
# none is. A claim that this run cannot test stays *open*.
#
# Rules that depend on chance were fixed on pilot runs with the seeds 5 to 9, and two things were changed there. The model that overflows
# in experiment D got a simpler form, because in the first one FP16 spoiled the finite gradients too; and the accuracies of Tiger and
# Lion may differ by 2 points instead of 1, because one pilot came to 1.4. Two more rules were made safer against chance after
# runs with the seeds 0 to 2, where the change altered no verdict: shrinking has to beat skipping by 2 points instead of 1, and
# Lion's row asks which loss is lower, without the allowance of 2 % that it had.

# %% tags=["experiment", "hide-input"]
import numpy as np
import torch
from torch import nn

from kexue_lib import lab, optim
from kexue_lib.lab import Criterion, settled

run = lab.Run(scale=scale, seed=seed, device=device)
claims = lab.Claims("tiger-optimizer")

claims.register(
    "C1",
    r"Tiger is Lion with $\beta_1 = \beta_2$",
    kind="exact",
    how="proved; and 20 steps of both in float64",
    criteria=[
        settled(D["D1"], "the same step"),
        settled(D["D1.5"], "the same memory"),
        Criterion("bitwise", "no entry differs in a single bit", lambda v: v["entries that differ"] == 0),
    ],
)
claims.register(
    "C2",
    "gradient accumulation fits into the one buffer of Tiger, and not into that of Lion",
    kind="exact",
    how="proved for every $k$; and a network trained both ways, $k = 2, 3, 5$, float64",
    criteria=[
        settled(D["D2"], "a block is one step with the mean gradient"),
        settled(D["D3"], "Lion needs two mixtures that differ"),
        Criterion("trained", "largest difference of a parameter below $10^{-10}$", lambda v: v["difference"] < 1e-10),
    ],
    evidence=["D3.2"],
)
claims.register(
    "C3",
    r"$\beta$ in the middle of Lion's two values is a good choice: 0.945 for vision, 0.965 for language",
    kind="heuristic",
    how="only the arithmetic is checked here",
    open_because="a comparison of such close values needs long runs on images and on text",
    evidence=["D1.7", "D1.8"],
)
claims.register(
    "C4a",
    r"a relative rate ($\alpha R$ for matrices, $\alpha/2$ for biases and norms) carries over between model sizes",
    kind="heuristic",
    how=run.pick(quick="widths 16 to 256", full="widths 16 to 1024")
    + ", digits; exponent of the best rate in the width",
    criteria=[
        Criterion(
            "constant",
            r"relative rate: exponent within $\pm\frac14$",
            lambda v: abs(v["exponent, relative"]) <= 0.25,
        ),
        Criterion(
            "better",
            "at most 0.7 times the exponent of a plain rate",
            lambda v: abs(v["exponent, relative"]) <= 0.7 * abs(v["exponent, plain"]),
        ),
    ],
    evidence=["D4.10", "D4.17", "D4.18"],
)
claims.register(
    "C4b",
    r"the peak of $\alpha$ should lie in $[0.001, 0.002]$",
    kind="heuristic",
    how="the best of six rates for a text model of six layers",
    **run.pick(
        quick={"open_because": "it is meant for long runs; a full run tries it"},
        full={
            "criteria": [
                Criterion("range", "the best rate is 0.001 or 0.002", lambda v: 0.0009 <= v["best rate"] <= 0.0021)
            ]
        },
    ),
)
claims.register(
    "C5",
    "constant weight decay 0.01 for matrices; none, or a tenth, for biases and norms",
    kind="heuristic",
    how=r"only the balance $\alpha/(2\lambda)$ is derived here",
    open_because="a comparison of decays needs long runs",
    evidence=["D5", "D5.15"],
)
claims.register(
    "C6a",
    "with a loss scale, momentum, sign and step stay within the range of FP16",
    kind="exact",
    how="proved",
    criteria=[
        settled(D["D6.1"], "the momentum never exceeds the gradients"),
        settled(D["D4"], "a constant loss scale changes nothing"),
        settled(D["D6.4"], r"steps from $6\cdot10^{-8}$ on are not zero in FP16"),
    ],
    evidence=["D6.3"],
)
claims.register(
    "C6b",
    "so that everything can be trained in FP16",
    kind="heuristic",
    how="digits, all parameters in the format; share of entries that move per step; held-out loss",
    criteria=[
        Criterion(
            "moves",
            r"$\alpha = 2\cdot10^{-4}$, the end of a schedule: at least 99 % of the entries move",
            lambda v: v["share that moves, FP16 at 2e-4"] >= 0.99,
        ),
        Criterion(
            "loss",
            r"$\alpha = 10^{-3}$: loss within 10 % of that in 32 bits",
            lambda v: abs(v["loss, FP16 to FP32 at 1e-3"] - 1) <= 0.1,
        ),
    ],
    evidence=["D6", "D6.11"],
)
claims.register(
    "C7a",
    "leaving out the update and shrinking the parameters by 0.99 after a NaN, training usually recovers",
    kind="empirical",
    how="digits with 5 % bad batches; a model that overflows in FP16 while its weights are large",
    criteria=[
        Criterion(
            "random",
            "bad batches at random: accuracy at most 2 points below a clean run",
            lambda v: v["shrink minus clean (points)"] >= -2,
        ),
        Criterion(
            "overflow",
            "overflow: the loss ends below 0.01 for every seed",
            lambda v: v["largest final loss"] < 1e-2,
        ),
    ],
    evidence=["D7"],
)
claims.register(
    "C7b",
    "it is the shrinking that helps, and not the skipping alone",
    kind="empirical",
    how="the same two, with skipping alone",
    criteria=[
        Criterion(
            "random",
            "bad batches at random: shrinking at least 2 points better than skipping",
            lambda v: v["shrink minus skip (points)"] >= 2,
        ),
        Criterion(
            "overflow",
            "overflow: skipping never leaves it, shrinking always does",
            lambda v: v["good steps, skipping"] == 0 and v["last bad step, shrinking"] < 200,
        ),
    ],
)
claims.register(
    "C8a",
    "Lion is at least as good as Tiger, and about as good with the same relative rates",
    kind="empirical",
    how="digits, 150 steps, best of three rates each, mean over seeds",
    criteria=[
        Criterion(
            "not worse",
            "Lion's held-out loss is not above Tiger's",
            lambda v: v["loss, Tiger to Lion"] >= 1,
        ),
        Criterion("about", "accuracy within 2 points", lambda v: abs(v["Tiger minus Lion (points)"]) <= 2),
    ],
)
claims.register(
    "C8b",
    "Tiger is at least as good as AdamW",
    kind="empirical",
    how="the same runs" + run.pick(quick="", full="; and a text model of six layers"),
    criteria=[
        Criterion("digits", "digits: held-out loss not above AdamW's", lambda v: v["loss, Tiger to AdamW"] <= 1),
        *run.pick(
            quick=[],
            full=[Criterion("text", "text: held-out loss not above AdamW's", lambda v: v["text, Tiger to AdamW"] <= 1)],
        ),
    ],
)
claims.register(
    "C8c",
    "memory beside the parameters, with accumulation: Tiger 1, Lion 2, AdamW 3",
    kind="exact",
    how="bytes counted during training, gradients freed as they come where the optimizer allows it",
    criteria=[
        Criterion("state", "Tiger's state is one copy, to the byte", lambda v: v["state of Tiger"] == 1),
        Criterion(
            "all",
            "with the gradients that are alive: Tiger below 1.3, Lion 2, AdamW 3",
            lambda v: v["Tiger"] < 1.3 and v["Lion"] == 2 and round(v["AdamW"], 2) == 3,
        ),
    ],
)
claims.register(
    "C8d",
    "AdamW and LAMB are of the same quality",
    kind="empirical",
    how="not part of this chapter",
    open_because="LAMB is made for batches far larger than ours",
)
claims.register(
    "C9a",
    r"$\operatorname{sign}(m)|m|^{1-\gamma}$ turns Tiger into SGD with momentum as $\gamma$ goes from 1 to 0",
    kind="exact",
    how="proved",
    steps=[D["D8"], D["D8.2"]],
    evidence=["D8.3"],
)
claims.register(
    "C9b",
    r"letting $\gamma$ fall with the learning rate improves the end of training",
    kind="empirical",
    how="a conjecture that the author did not try",
    open_because="a conjecture; its direction is not free of scale, so rates would have to be found anew",
)
claims.table()

# %% [markdown]
# ## 9 One buffer, counted
#
# The experiments share one small task: handwritten digits of $8\times 8$ pixels, 1300 to learn from and 497 held out; a network
# with two hidden layers of a given width, each followed by a layer norm; batches of 128. Matrices start with the standard deviation
# $1/\sqrt n$ for $n$ inputs. Learning rates rise over the first tenth of a run and then fall linearly to a twentieth.

# %% tags=["experiment", "hide-input"]
images, labels = lab.data.digits()
order = run.rng("split").permutation(len(images))
pixels = torch.from_numpy(images[order]).flatten(1).to(run.device)
digit = torch.from_numpy(labels[order]).to(run.device)
train_x, train_y, test_x, test_y = pixels[:1300], digit[:1300], pixels[1300:], digit[1300:]


def linear(inputs, outputs, generator):
    """A layer with the usual start."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=inputs**-0.5, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def network(width, generator):
    """Two hidden layers, each with a norm."""
    return nn.Sequential(
        *(linear(64, width, generator), nn.LayerNorm(width), nn.GELU()),
        *(linear(width, width, generator), nn.LayerNorm(width), nn.GELU()),
        linear(width, 10, generator),
    ).to(run.device)


def some(generator, size=128):
    """A random batch of the digits."""
    where = torch.randint(len(train_x), (size,), generator=generator).to(run.device)
    return train_x[where], train_y[where]


def mean_loss(model, x, y):
    """Cross-entropy; the scores are read in 32 bits at least."""
    scores = model(x.to(next(model.parameters()).dtype))
    return nn.functional.cross_entropy(scores.to(torch.promote_types(scores.dtype, torch.float32)), y)


def held_out(model):
    """Loss and accuracy on the held-out digits."""
    with torch.no_grad():
        guess = model(test_x.to(next(model.parameters()).dtype)).argmax(-1)
        return mean_loss(model, test_x, test_y).item(), (guess == test_y).double().mean().item()


def trained(model, optimizer, steps, generator, poison=None):
    """A run with warm-up and decay; ``poison(t)`` says whether a batch is bad."""
    share = optim.piecewise_linear_schedule({max(1, steps // 10): 1.0, steps: 0.05})
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    for step in range(steps):
        optimizer.zero_grad()
        mean_loss(model, *some(generator)).backward()
        if poison is not None and poison(step):
            for parameter in model.parameters():
                parameter.grad.fill_(torch.nan)
        optimizer.step()
        rates.step()
    return held_out(model)


repeats = run.pick(quick=3, full=5)

# %% [markdown]
# First the two exact claims, in code. We train a network in float64 with Tiger and with Lion, and compare bit by bit. Then
# we cut every batch into $k$ micro-batches, and compare with the whole batch.

# %% tags=["experiment", "hide-input"]


def end_of(make, micro=1):
    """Parameters after 20 batches, every batch cut into ``micro`` parts; always the same start and batches."""
    model = network(32, run.generator("exact")).double()
    optimizer, generator = make(optim.tiger_param_groups(model)), run.generator("exact batches")
    for _ in range(20):
        x, y = some(generator, 120)
        for part in range(micro):
            optimizer.zero_grad()
            mean_loss(model, x[part::micro], y[part::micro]).backward()
            optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


whole = end_of(lambda groups: optim.Tiger(groups, lr=0.02))
as_lion = end_of(lambda groups: optim.Lion(groups, lr=0.02, betas=(0.965, 0.965)))
in_parts = {
    size: end_of(lambda groups, size=size: optim.Tiger(groups, lr=0.02, grad_accum_steps=size), size)
    for size in (2, 3, 5)
}
claims.measure("C1", {"entries that differ": int((whole != as_lion).sum())})
claims.measure("C2", {"difference": max((end - whole).abs().max().item() for end in in_parts.values())})

# %% [markdown]
# Then the memory. We train a network of ten layers with accumulation over four micro-batches, and count all bytes that the
# optimizer holds, and the largest number of bytes that the gradients hold at any moment of a backward pass.

# %% tags=["experiment", "hide-input"]


def bytes_of(tensors):
    """Bytes of some tensors, in units of the parameters."""
    return sum(tensor.nbytes for tensor in tensors)


def copies(make, hooked=False):
    """State and live gradients in units of the parameters, for one block of four micro-batches."""
    generator = run.generator("memory")
    model = nn.Sequential(*(linear(64, 64, generator) for _ in range(10))).to(run.device)
    parameters = list(model.parameters())
    optimizer, alive = make(parameters), []
    accumulates = isinstance(optimizer, optim.Tiger)
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(
            lambda _: alive.append(bytes_of(p.grad for p in parameters if p.grad is not None))
        )
    if hooked:
        optim.attach_accumulation_hooks(optimizer)
    for micro in range(4):
        model(train_x[:32]).square().mean().backward()
        if accumulates or micro == 3:  # the others accumulate in .grad
            optimizer.step()
            optimizer.zero_grad()
    held = [value for entry in optimizer.state.values() for value in entry.values() if torch.is_tensor(value)]
    return bytes_of(held) / bytes_of(parameters), max(alive) / bytes_of(parameters)


counted = {
    "AdamW": copies(lambda p: torch.optim.AdamW(p)),
    "Lion": copies(lambda p: optim.Lion(p)),
    "Tiger, .grad kept": copies(lambda p: optim.Tiger(p, grad_accum_steps=4)),
    "Tiger, with hooks": copies(lambda p: optim.Tiger(p, grad_accum_steps=4), hooked=True),
}
claims.measure(
    "C8c",
    {
        "state of Tiger": counted["Tiger, with hooks"][0],
        "Tiger": sum(counted["Tiger, with hooks"]),
        "Lion": sum(counted["Lion"]),
        "AdamW": sum(counted["AdamW"]),
    },
)

with lab.style.use() as plt:
    fig, ax = plt.subplots(figsize=(7.2, 3.2))
    names, left = list(counted), np.zeros(len(counted))
    for label, part in (("optimizer state", 0), ("gradients alive", 1)):
        values = np.array([counted[name][part] for name in names])
        ax.barh(names, values, left=left, label=label, height=0.6)
        left = left + values
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="copies of the parameters, beside the parameters", ylabel="optimizer", xlim=(0, 3.6))
    ax.legend(loc="lower right")
lab.figure(
    fig,
    name="memory",
    title="Tiger saves memory only if gradients are freed as they come",
    caption=(
        "**Figure 1.** Bytes counted while a network of ten layers is trained with accumulation over four micro-batches. In "
        "PyTorch the gradients themselves are the accumulation buffer, so Tiger alone is no smaller than Lion. With the hooks "
        "one gradient lives at a time. Deeper networks make the last bar still shorter, down to one copy."
    ),
    alt=(
        "Horizontal bars. AdamW: two copies of state and one of gradients. Lion and plain Tiger: one and one. Tiger with hooks: "
        "one copy of state and about a tenth of gradients."
    ),
    data={
        "optimizer": list(range(len(names))),
        "state": [counted[x][0] for x in names],
        "gradients": [counted[x][1] for x in names],
    },
)

# %% [markdown]
# ## 10 Experiment A: does a relative rate carry over?
#
# We train networks of several widths for 100 steps, once with plain rates (the same $\eta$ for every tensor) and once with
# relative ones, and look for the rate with the lowest held-out loss. By [D4.17](#D4.17) and [D4.18](#D4.18) the best plain rate should
# fall like $1/n$ with the width, and the best $\alpha$ like $1/\sqrt n$; if the relative rate carried over perfectly, its exponent
# would be 0.

# %% tags=["experiment", "hide-input"]
widths = run.pick(quick=(16, 64, 256), full=(16, 64, 256, 1024))
run_steps = max(20, run.pick(quick=100, full=300) // shrink)
rates = {
    "relative": [0.005, 0.01, 0.02, 0.04, 0.08],
    "plain": [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032],
}
if run.scale == "full":
    rates = {kind: [values[0] / 4, values[0] / 2, *values] for kind, values in rates.items()}


def swept(kind, width, rate, steps):
    """Mean held-out loss over the repeats."""
    losses = []
    for k in range(repeats):
        generator = run.generator("transfer", k)
        model = network(width, generator)
        groups = optim.tiger_param_groups(model)
        if kind == "plain":
            groups = [{**group, "scale": None} for group in groups]
        losses.append(trained(model, optim.Tiger(groups, lr=rate), steps, generator)[0])
    return float(np.mean(losses))


def best_rate(values, losses):
    """The lowest point of the parabola through the lowest value and its neighbours, on logarithmic axes."""
    at = int(np.clip(np.argmin(losses), 1, len(values) - 2))
    bend, tilt, _ = np.polyfit(np.log(values[at - 1 : at + 2]), np.log(losses[at - 1 : at + 2]), 2)
    lowest = np.exp(-tilt / (2 * bend)) if bend > 0 else values[int(np.argmin(losses))]
    return float(np.clip(lowest, values[0], values[-1]))


sweep = {
    (kind, width): [swept(kind, width, rate, run_steps) for rate in rates[kind]] for kind in rates for width in widths
}
best = {kind: np.array([best_rate(rates[kind], sweep[kind, width]) for width in widths]) for kind in rates}
transfer = {kind: lab.slope(np.log(widths), np.log(best[kind])) for kind in rates}
claims.measure("C4a", {f"exponent, {kind}": float(transfer[kind]) for kind in rates})

# %% tags=["experiment", "hide-input"]
with lab.style.use() as plt:
    fig, axes = plt.subplots(1, 3, figsize=(9.6, 4.0), width_ratios=(1, 1, 0.9))
    for axis, kind, label in zip(
        axes, ("plain", "relative"), (r"plain rate $\eta$", r"relative rate $\alpha$"), strict=False
    ):
        for width, colour in zip(widths, lab.style.COLOURS, strict=False):
            axis.plot(rates[kind], sweep[kind, width], color=colour, label=f"width {width}")
            axis.axvline(best[kind][list(widths).index(width)], color=colour, linewidth=1, linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="held-out loss (nats)", ylim=(0.08, 3))
        lab.style.title(axis, label)
    axes[0].legend(loc="upper right", frameon=True, framealpha=1, edgecolor="none")
    axes[1].set_xticks([0.005, 0.01, 0.02, 0.04, 0.08], ["0.005", "0.01", "0.02", "0.04", "0.08"])
    axes[1].set_xticks([], minor=True)
    for kind, colour, power in (
        ("plain", lab.style.PALETTE["blue"], -1.0),
        ("relative", lab.style.PALETTE["orange"], -0.5),
    ):
        axes[2].plot(widths, best[kind], color=colour, label=f"{kind}: {float(transfer[kind]):.2f}")
        line = np.exp(np.mean(np.log(best[kind])) + power * (np.log(widths) - np.mean(np.log(widths))))
        axes[2].plot(widths, line, color=colour, marker="", linestyle=":", linewidth=1)
    axes[2].set(xscale="log", yscale="log", xlabel="width $n$", ylabel="best rate")
    axes[2].set_xticks(widths, [str(width) for width in widths])
    axes[2].set_xticks([], minor=True)
    axes[2].legend(loc="lower left", title="exponent")
    lab.style.title(axes[2], "best rate")
lab.figure(
    fig,
    name="transfer",
    title="How does the best rate move with the width?",
    caption=(
        "**Figure 2.** Left and middle: held-out loss against the rate, mean over the repeats; dotted: the best rate. Right: the best "
        r"rate against the width; dotted: the derived slopes $-1$ and $-\frac12$."
    ),
    alt=(
        "Three panels. Two families of U-shaped curves, one per width: their lowest points lie far apart for the plain rate and closer "
        "for the relative rate. Third panel: best rates fall with the width, the plain one about twice as steeply."
    ),
    data={
        **{f"rate, {kind}": rates[kind] for kind in rates},
        **{f"loss, {kind}, {width}": values for (kind, width), values in sweep.items()},
        "width": widths,
        **{f"best, {kind}": best[kind] for kind in rates},
    },
)
print("exponent of the best rate in the width: plain", lab.approx(float(transfer["plain"]), 2), end=", ")
print("relative", lab.approx(float(transfer["relative"]), 2))

# %% [markdown]
# The scaling argument gives the two exponents. So the relative rate is a real gain: over the widths shown, a plain rate has to be
# changed by the square of the factor by which the relative one has to be changed. But it does not carry over unchanged. Whoever goes from a
# base model to one four times as wide should expect to halve $\alpha$.
#
# What about its level? The post recommends a peak of 0.001 to 0.002, and in Figure 2 about ten times as much is best. The runs there are a
# thousand times shorter than those the author had in mind. So let us vary the length of the run, at width 64.

# %% tags=["experiment", "hide-input"]
lengths = [max(10, length // shrink) for length in run.pick(quick=(50, 100, 200), full=(100, 300, 1000, 3000))]
tried = {length: [factor / length for factor in (1.25, 2.5, 5.0)] for length in lengths}
by_length = {length: [swept("relative", 64, rate, length) for rate in values] for length, values in tried.items()}
best_by_length = np.array([best_rate(tried[length], by_length[length]) for length in lengths])
with lab.style.use() as plt:
    fig, ax = plt.subplots(figsize=(7.2, 3.6))
    ax.plot(lengths, best_by_length, label=r"best $\alpha$")
    ax.plot(
        lengths,
        np.exp(np.mean(np.log(best_by_length * np.array(lengths)))) / np.array(lengths),
        color=lab.style.MUTED,
        marker="",
        linestyle=":",
        label="one over the length",
    )
    ax.set(xscale="log", yscale="log", xlabel="steps of the run", ylabel=r"best $\alpha$")
    ax.set_xticks(lengths, [str(length) for length in lengths])
    ax.set_xticks([], minor=True)
    ax.legend(loc="upper right")
lab.figure(
    fig,
    name="level",
    title="Does a longer run want a smaller rate?",
    caption=(
        "**Figure 3.** The best peak of $\\alpha$ for runs of several lengths, width 64. Dotted: the line on which the sum of all "
        "relative steps is the same for every run."
    ),
    alt="The best relative rate against the number of steps on logarithmic axes, beside a line of slope minus one.",
    data={"steps": lengths, "best": best_by_length, "best times steps": best_by_length * np.array(lengths)},
)
print("best rate times length:", ", ".join(lab.approx(value, 2) for value in best_by_length * np.array(lengths)))

# %% [markdown]
# If the product of rate and length stays about the same, every run walks about the same distance: the weights change by
# about their own size, all steps together. A rate of 0.001 would then fit a run of thousands of steps on this task, and longer
# ones on harder tasks. That is no proof of the recommendation, but it says why a short run cannot test it.
#
# ## 11 Experiment B: the size of the weights
#
# Now the two extremes of section 4, run with the optimizer itself. On the left, 5000 weights receive gradients of random sign;
# $\beta$ is 0, so that the signs are independent. On the right, two rows of an embedding receive the same gradient at every step.

# %% tags=["experiment", "hide-input"]
rate, decay = 0.1, 1.0
predicted = (1 - np.sqrt(1 - rate**2)) / (rate * decay)
steps_b = 3000
wander = {}
for label, begin in (("small", 0.01), ("large", 0.25)):
    generator = run.generator("random signs", int(100 * begin))
    weight = nn.Parameter(begin * torch.randn(50, 100, generator=generator))
    optimizer = optim.Tiger([weight], lr=rate, beta=0.0, weight_decay=decay)
    sizes = []
    for _ in range(steps_b):
        weight.grad = torch.randn(50, 100, generator=generator)
        optimizer.step()
        sizes.append(weight.detach().square().mean().sqrt())
    wander[label] = torch.stack(sizes).numpy()
balance_error = max(abs(values[-600:].mean() / predicted - 1) for values in wander.values())

growth_rate, growth_decay, starts = 0.01, 0.01, (0.02, 1.0)
table = nn.Parameter(torch.tensor(starts)[:, None].expand(-1, 8).clone())
optimizer = optim.Tiger([table], lr=growth_rate, weight_decay=growth_decay, scale="rms_rows")
stuck = []
for _ in range(1600):
    stuck.append(table.detach().mean(1).clone())
    table.grad = -torch.ones(2, 8)
    optimizer.step()
stuck = torch.stack(stuck).numpy()
when = np.arange(1600)
logistic = [1 / (growth_decay + (1 / r - growth_decay) * np.exp(-growth_rate * when)) for r in starts]

with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.9))
    for label, values in wander.items():
        left.plot(values, marker="", label=f"{label} start")
    left.axhline(predicted, color=lab.style.INK, linestyle=":", linewidth=1)
    left.annotate(r"$R_*$ of D5.14", (steps_b, predicted), xytext=(-4, 5), textcoords="offset points", ha="right")
    left.set(yscale="log", xlabel="step", ylabel="root mean square of the weights")
    left.legend(loc="upper right")
    lab.style.title(left, "Random signs: a balance")
    for k, r in enumerate(starts):
        right.plot(when, stuck[:, k], marker="", color=lab.style.COLOURS[k], label=f"starts at {r:g}")
        right.plot(when, logistic[k], marker="", color=lab.style.INK, linestyle=":", linewidth=1)
    right.axhline(1 / growth_decay, color=lab.style.MUTED, linewidth=0.8)
    right.set(yscale="log", xlabel="step", ylabel="size of the row")
    right.legend(loc="lower right")
    lab.style.title(right, "One sign for ever: growth to $1/\\lambda$")
lab.figure(
    fig,
    name="sizes",
    title="Weight decay gives the weights a size",
    caption=(
        f"**Figure 4.** Left: $\\alpha = {rate:g}$, $\\lambda = {decay:g}$; the dotted line is the derived balance. Right: rows of an "
        f"embedding under a constant sign, $\\alpha = {growth_rate:g}$, $\\lambda = {growth_decay:g}$; dotted, almost hidden: the "
        "logistic curve of D5.7."
    ),
    alt=(
        "Left: two curves, from above and from below, meet at the dotted balance. Right: two S-shaped curves on a logarithmic axis rise "
        "to 100 and lie on the dotted logistic curves."
    ),
    data={
        "step": when[::40],
        **{f"row {r:g}": stuck[::40, k] for k, r in enumerate(starts)},
        **{k: v[::40] for k, v in wander.items()},
    },
)
print("largest relative distance from the balance:", lab.approx(balance_error, 2))

# %% [markdown]
# ## 12 Experiment C: what rounding costs
#
# All parameters are now stored *and* updated in one format, the loss is multiplied by 128, and the rate is constant. How many
# entries of the middle matrix change in a step? By [D6](#D6) a typical entry is frozen below $\alpha = 2^{-12}$ in FP16 and below
# $2^{-9}$ in bfloat16.

# %% tags=["experiment", "hide-input"]
formats = {"32 bits": torch.float32, "FP16": torch.float16, "bfloat16": torch.bfloat16}
half_steps = max(20, 150 // shrink)


def in_format(kind, alpha, steps, k, rounding="nearest"):
    """Share of entries that move per step, and the held-out loss on the way."""
    generator = run.generator("half", k)
    model = network(64, generator).to(formats[kind])
    optimizer = optim.Tiger(
        optim.tiger_param_groups(model),
        lr=alpha,
        rounding=rounding,
        generator=run.generator("rounding", k, device=run.device),
    )
    share, curve = [], []
    for step in range(steps):
        if step % 10 == 0:
            curve.append(held_out(model)[0])
        optimizer.zero_grad()
        (128 * mean_loss(model, *some(generator))).backward()
        before = model[3].weight.detach().clone()
        optimizer.step()
        share.append((model[3].weight != before).double().mean().item())
    return float(np.mean(share)), [*curve, held_out(model)[0]]


alphas = [0.01, 0.003, 0.001, 0.0005, 0.0002]
fine = np.geomspace(0.00015, 0.012, 400)


def staircase(bits):
    """Share of normal entries of size 1/8 whose half spacing is below the step: those below a power of two."""
    reach = 2.0 ** (np.floor(np.log2(fine / 8) + bits) + 1)
    return torch.erf(torch.from_numpy(reach * 8 / np.sqrt(2))).numpy()


moving = {kind: [in_format(kind, alpha, 30, 0)[0] for alpha in alphas] for kind in formats}
arms = {**{kind: (kind, "nearest") for kind in formats}, "bfloat16, random rounding": ("bfloat16", "stochastic")}
curves = {
    label: np.mean([in_format(kind, 0.001, half_steps, k, how)[1] for k in range(repeats)], 0)
    for label, (kind, how) in arms.items()
}
claims.measure(
    "C6b",
    {
        "share that moves, FP16 at 2e-4": moving["FP16"][-1],
        "loss, FP16 to FP32 at 1e-3": curves["FP16"][-1] / curves["32 bits"][-1],
    },
)
with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.9))
    for kind, values in moving.items():
        left.plot(alphas, values, linestyle="none", label=kind)
    for kind, bits in (("FP16", 11), ("bfloat16", 8)):
        colour = lab.style.COLOURS[list(formats).index(kind)]
        left.plot(fine, staircase(bits), color=colour, marker="", linestyle="-", linewidth=0.8)
    left.set(xscale="log", xlabel=r"relative rate $\alpha$", ylabel="share of entries that move", ylim=(0, 1.05))
    left.legend(loc="lower right")
    lab.style.title(left, "Entries that move in a step")
    for label, values in curves.items():
        right.plot(np.linspace(0, half_steps, len(values)), values, marker="", label=label)
    right.set(xlabel="step", ylabel="held-out loss (nats)")
    right.legend(loc="lower left", fontsize=8)
    lab.style.title(right, r"Training at $\alpha = 0.001$")
lab.figure(
    fig,
    name="rounding",
    title="Half precision rounds steps away; rounding at random brings them back",
    caption=(
        "**Figure 5.** Left: share of the entries of the middle matrix that change per step. Thin lines: the share "
        "that D6.6 predicts for normally distributed entries of size 1/8. Right: held-out loss, mean over the repeats, all parameters in the format."
    ),
    alt=(
        "Left: the share stays at one in 32 bits, drops in stairs at small rates in FP16, and much earlier in bfloat16. Right: the loss in "
        "bfloat16 falls more slowly than the others; with random rounding its curve lies on that of 32 bits."
    ),
    data={"alpha": alphas, **moving, **{f"loss, {label}": values for label, values in curves.items()}},
)
print(
    "held-out loss at the end:", ", ".join(f"{label} {lab.approx(values[-1], 3)}" for label, values in curves.items())
)

# %% [markdown]
# The share falls in stairs, because the spacing doubles at every power of two: all entries below one power still move, all above it stand
# still. In bfloat16 most entries stand still at the recommended rates, and the training is slower. Rounding at random repairs it, without any
# further memory. FP16 does well at 0.001; its trouble comes at the end of the schedule, where the rates are smaller still.
#
# The decay is in a worse state. Added to the sign it is lost for small weights, by [D6.21](#D6.21); applied by itself, as the optimizer here does
# it, it is lost for all, by [D6.23](#D6.23). The next line shows in FP16 what $1 + \lambda\theta$ and $-1 + \lambda\theta$ become for a weight of
# 0.024, and $\theta(1 - \eta\lambda)$ for a weight of 0.05.

# %% tags=["experiment", "hide-input"]
tenth = np.float16(0.01) * np.float16(0.024)
print("1 + 0.01 × 0.024 →", np.float16(1) + tenth, "  -1 + 0.01 × 0.024 →", np.float16(-1) + tenth, end="   ")
print("0.05 × (1 - 5e-7) unchanged:", np.float16(0.05) == np.float16(np.float64(np.float16(0.05)) * (1 - 5e-7)))

# %% [markdown]
# ## 13 Experiment D: after a bad gradient
#
# First, bad luck: one batch in twenty has only NaN as gradients, at random. We compare a clean run with shrinking, with skipping, and
# with no treatment at all. Then, a bad state: a model with 16 weights computes $\log(1 + e^{w\cdot x})$ in FP16, carelessly: $e^{w\cdot x}$ overflows
# as soon as $w \cdot x$ exceeds 11. It is to answer 1, and it starts where every batch overflows.

# %% tags=["experiment", "hide-input"]
nan_steps = max(30, 200 // shrink)
treatments = {"no bad batch": 0.99, "shrink": 0.99, "skip": 1.0, "no treatment": None}


def with_bad_batches(name, k):
    """Accuracy after a run with bad batches."""
    generator = run.generator("bad luck", k)
    model = network(64, generator)
    optimizer = optim.Tiger(optim.tiger_param_groups(model), lr=0.02, shrink_ratio=treatments[name])
    bad = run.rng("bad batches", k).random(nan_steps) < 0.05
    return trained(model, optimizer, nan_steps, generator, None if name == "no bad batch" else lambda t: bad[t])[1]


def overflowing(treatment, k, steps=300):
    """Which steps overflow, the size of the weights, and the last loss."""
    generator = run.generator("overflow", k)
    weight = nn.Parameter(0.8 + 0.02 * torch.randn(1, 16, generator=generator))
    optimizer = optim.Tiger([weight], lr=0.01, shrink_ratio=treatments[treatment])
    bad, sizes = [], []
    for _ in range(steps):
        x = 0.5 + torch.rand(32, 16, generator=generator)
        optimizer.zero_grad()
        out = (1 + (x @ weight[0]).half().exp()).log()
        loss = (out.float() - 1).square().mean()
        loss.backward()
        bad.append(not weight.grad.isfinite().all())
        sizes.append(weight.detach().square().mean().sqrt().item())
        optimizer.step()
    return np.array(bad), np.array(sizes), loss.item()


accuracy = {name: [with_bad_batches(name, k) for k in range(repeats)] for name in treatments}
toy = {name: [overflowing(name, k) for k in range(3)] for name in ("shrink", "skip")}
points = {name: 100 * np.mean(values) for name, values in accuracy.items()}
claims.measure(
    "C7a",
    {
        "shrink minus clean (points)": points["shrink"] - points["no bad batch"],
        "largest final loss": max(loss for _, _, loss in toy["shrink"]),
    },
)
claims.measure(
    "C7b",
    {
        "shrink minus skip (points)": points["shrink"] - points["skip"],
        "good steps, skipping": sum(int((~bad).sum()) for bad, _, _ in toy["skip"]),
        "last bad step, shrinking": max(int(np.flatnonzero(bad).max(initial=-1)) for bad, _, _ in toy["shrink"]),
    },
)
with lab.style.use() as plt:
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.9))
    for place, values in enumerate(accuracy.values()):
        colour = lab.style.COLOURS[place]
        left.bar(place, 100 * np.mean(values), color=colour, alpha=0.35, width=0.6)
        left.plot([place] * len(values), 100 * np.array(values), color=colour, linestyle="none", marker="o")
    left.set_xticks(range(len(accuracy)), [name.replace(" ", "\n", 1) for name in accuracy])
    left.set(xlabel="treatment of bad batches", ylabel="held-out accuracy (%)", ylim=(0, 105))
    lab.style.title(left, "Bad luck")
    for (name, runs), colour in zip(toy.items(), lab.style.COLOURS[1:], strict=False):
        for k, (bad, sizes, _) in enumerate(runs):
            right.plot(sizes, color=colour, marker="", linestyle="-", linewidth=1.2, label=name if k == 0 else None)
            at = np.flatnonzero(bad)[:: max(1, int(bad.sum()) // 40)]
            right.plot(
                at,
                sizes[at],
                color=lab.style.INK,
                marker="x",
                markersize=4,
                linestyle="none",
                label="gradient not finite" if k == 0 and name == "skip" else None,
            )
    right.set(xlabel="step", ylabel="root mean square of the weights", ylim=(0, 0.9))
    right.legend(loc="center right")
    lab.style.title(right, "Bad state: overflow")
lab.figure(
    fig,
    name="bad-gradients",
    title="Shrinking is a way out of a bad state, not out of bad luck",
    caption=(
        "**Figure 6.** Left: accuracy after a run in which one batch in twenty is bad; points are networks. Right: a model that "
        "overflows while its weights are large; crosses mark steps without a finite gradient. Skipping stays where it is for ever."
    ),
    alt=(
        "Left: three bars of equal height for no bad batch, shrink and skip, and a lower one for no treatment. Right: with shrinking the "
        "weights fall until the gradients are finite, then training goes on; with skipping the line is level and every step is bad."
    ),
    data={"accuracy": [accuracy[name] for name in accuracy], "shrink": toy["shrink"][0][1], "skip": toy["skip"][0][1]},
)

# %% [markdown]
# Without treatment a single NaN is fatal in a quiet way. It makes the momentum NaN for good, PyTorch takes the sign of NaN as zero, and
# the tensor never moves again, but for its decay. No error is raised. How bad the result is depends on how early the first bad batch comes.
#
# One more thing: the author's code tests for NaN only. An *infinite* gradient would make the momentum infinite for good, and drive the
# entry to $\pm 1/\lambda$ by [D5.4](#D5.4). Our optimizer tests for every number that is not finite.
#
# ## 14 Experiment E: how good is it?
#
# At last the question that matters most and that a page like this can answer least. The same digits, 150 steps, three rates for each
# optimizer, the best of them by the mean held-out loss. Lion gets its usual $(0.95, 0.98)$ and the same relative rates as Tiger.

# %% tags=["experiment", "hide-input"]
quality_steps = max(20, 150 // shrink)
entrants = {
    "AdamW": (
        lambda model, rate: torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01),
        [0.001, 0.003, 0.01],
    ),
    "Tiger": (lambda model, rate: optim.Tiger(optim.tiger_param_groups(model), lr=rate), [0.005, 0.01, 0.02]),
    "Lion": (
        lambda model, rate: optim.Lion(optim.tiger_param_groups(model), lr=rate, betas=(0.95, 0.98)),
        [0.005, 0.01, 0.02],
    ),
}


def contest(make, rate):
    """Loss and accuracy, one row per repeat."""
    rows = []
    for k in range(repeats):
        generator = run.generator("quality", k)
        model = network(128, generator)
        rows.append(trained(model, make(model, rate), quality_steps, generator))
    return np.array(rows)


scores = {name: {rate: contest(make, rate) for rate in rates_} for name, (make, rates_) in entrants.items()}
winner = {name: min(table.values(), key=lambda rows: rows[:, 0].mean()) for name, table in scores.items()}
final = {name: rows.mean(0) for name, rows in winner.items()}
claims.measure(
    "C8a",
    {
        "loss, Tiger to Lion": final["Tiger"][0] / final["Lion"][0],
        "Tiger minus Lion (points)": 100 * (final["Tiger"][1] - final["Lion"][1]),
    },
)
if run.scale != "full":
    claims.measure("C8b", {"loss, Tiger to AdamW": final["Tiger"][0] / final["AdamW"][0]})

with lab.style.use() as plt:
    fig, ax = plt.subplots(figsize=(7.2, 3.6))
    for place, table in enumerate(scores.values()):
        colour = lab.style.COLOURS[place]
        for offset, (rate, rows) in enumerate(table.items()):
            x = place + 0.22 * (offset - 1)
            ax.plot([x] * len(rows), rows[:, 0], color=colour, linestyle="none", marker="o", alpha=0.5, markersize=4)
            ax.plot([x - 0.08, x + 0.08], [rows[:, 0].mean()] * 2, color=colour, marker="", linestyle="-", linewidth=2)
            ax.annotate(f"{rate:g}", (x, 0.03), ha="center", fontsize=8, color=lab.style.MUTED)
    ax.set_xticks(range(len(scores)), list(scores))
    ax.set(xlabel="optimizer, three rates each", ylabel="held-out loss (nats)", ylim=(0, None))
lab.figure(
    fig,
    name="quality",
    title="Three optimizers on a small task",
    caption="**Figure 7.** Held-out loss after 150 steps. Points: networks; bars: means. Small numbers: the rate.",
    alt="Groups of points for AdamW, Tiger and Lion at three rates each, with bars at their means.",
    data={f"{name} {rate:g}": rows[:, 0] for name, table in scores.items() for rate, rows in table.items()},
)
for name, (loss, share) in final.items():
    print(f"{name}: held-out loss {lab.approx(loss, 3)}, accuracy {lab.approx(100 * share, 3)} %")

# %% [markdown]
# Tiger and Lion are close, as the post says; if anything, Tiger is ahead here. AdamW is ahead on so small a task with so short a
# run; the claim of the post is about something else: large batches and long runs, where the Lion paper finds sign methods ahead. A full
# run compares the three on a text model of six layers. It is still small by the measure of that claim.

# %% tags=["experiment", "hide-input"]
if run.scale == "full":
    text = lab.data.kjv().lower()
    vocabulary = lab.text.Vocabulary(text, size=95)
    train_text, test_text = lab.text.split(vocabulary.encode(text))
    window, batch_size, text_steps = 256, max(4, 256 // shrink), max(20, 2000 // shrink)
    test_rows = lab.language.test_windows(
        test_text, count=max(8, 256 // shrink), longest=window, generator=run.generator("test windows")
    )
    text_rates = {
        "AdamW": [0.0005, 0.001, 0.002, 0.004],
        "Tiger": [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016],
        "Lion": [0.001, 0.002, 0.004, 0.008],
    }

    def text_loss(name, rate):
        """Held-out loss of a text model of six layers."""
        generator = run.generator("text model")
        sizes = {"dim": 384, "depth": 6, "heads": 6} if shrink == 1 else {"dim": 32, "depth": 2, "heads": 2}
        model = lab.language.CausalDecoder(len(vocabulary), **sizes, generator=generator).to(run.device)
        batches = lab.text.causal_batches(
            train_text, batch=batch_size, n=window, generator=run.generator("text batches")
        )
        lab.training.train(
            model,
            batches,
            steps=text_steps,
            lr=rate,
            warmup=max(1, text_steps // 10),
            autocast=run.autocast,
            loss=lab.training.causal_loss,
            optimizer=entrants[name][0],
            schedule="cosine",
            desc=f"{name} {rate:g}",
        )
        found = lab.language.evaluate_lengths(
            model, test_rows.to(run.device), train_len=window, multiples=(1,), autocast=run.autocast
        )
        return found[0].cross_entropy

    text_scores = {name: [text_loss(name, rate) for rate in values] for name, values in text_rates.items()}
    claims.measure(
        "C8b",
        {
            "loss, Tiger to AdamW": final["Tiger"][0] / final["AdamW"][0],
            "text, Tiger to AdamW": min(text_scores["Tiger"]) / min(text_scores["AdamW"]),
        },
    )
    claims.measure("C4b", {"best rate": text_rates["Tiger"][int(np.argmin(text_scores["Tiger"]))]})
    with lab.style.use() as plt:
        fig, ax = plt.subplots(figsize=(7.2, 4.0))
        for name, values in text_scores.items():
            ax.plot(text_rates[name], values, label=name)
        ax.set(xscale="log", xlabel="rate (relative for Tiger and Lion)", ylabel="held-out loss (nats per character)")
        ax.legend(loc="best")
    lab.figure(
        fig,
        name="text",
        title="A text model of six layers",
        caption="**Figure 8.** Held-out loss against the peak rate.",
        alt="Held-out loss against the rate for AdamW, Tiger and Lion.",
        data={
            f"{name} {what}": values
            for name in text_rates
            for what, values in (("rate", text_rates[name]), ("loss", text_scores[name]))
        },
    )
else:
    print("The text models are trained in a full run only.")

# %% [markdown]
# ## 15 The claims

# %% tags=["experiment"]
claims.table()

# %% [markdown]
# ## 16 What to keep
#
# A sign step needs one buffer, and gradient accumulation fits into that buffer exactly, because the momentum is linear in the
# gradients and decays once per block. A learning rate relative to the size of the weights removes the scale of the weights, and half of
# the exponent with which the best rate depends on the width. Half precision has the range for such training but not the resolution: it
# drops every step below half a spacing, and rounding at random is the cheapest cure.
#
# ### Exercises
#
# **1. How long does the sign remember?** All gradients were $+1$ for a long time, so the momentum is 1. From now on they are $-1$. After how
# many steps does the sign turn, for $\beta = 0.965$?
#
# <details><summary>Solution</summary>
#
# After $t$ steps the momentum is $2\beta^t - 1$. It vanishes at $t = \log 2/(-\log\beta)$, between 19 and 20 steps. So the sign turns
# with the twentieth.
#
# </details>

# %% tags=["hide-cell"]
turning = Function("tau", real=True)
display(
    D.define("D9.1", eq(turning(time), 2 * beta**time - 1), by="a candidate for the momentum after $t$ steps"),
    D.exact("D9.2", eq(turning(0), 1), by="it starts right"),
    D.exact("D9.3", eq(turning(time + 1), mixture(beta, turning(time), -1)), by="and follows the recursion"),
    D.exact("D9.4", gt(log(2) / -log(Rational(965, 1000)), 19), by="it vanishes after 19 …"),
    D.exact("D9.5", lt(log(2) / -log(Rational(965, 1000)), 20), by="… and before 20 steps"),
)

# %% [markdown]
# **2. Choose the decay.** A matrix with $n$ inputs starts with the standard deviation $\sigma = 1/\sqrt n$, and shall keep that size under
# random signs. Which $\lambda$ belongs to $\alpha = 1.11\cdot 10^{-3}$ and $n = 768$, and which plain rate is that?
#
# <details><summary>Solution</summary>
#
# From $\alpha/(2\lambda) = \sigma$ we have $\lambda = \alpha\sqrt n/2$, about 0.015, and the plain rate is $\alpha\sigma$, about
# $4\cdot10^{-5}$. These are the values that the author used for Lion.
#
# </details>

# %% tags=["hide-cell"]
wanted, implied = Function("lambda", positive=True), Function("eta", positive=True)
width = Symbol("n", positive=True)  # the experiments have used the name for numbers
display(
    D.define("D9.6", eq(wanted(alpha, width), alpha * sqrt(width) / 2), by="the decay"),
    D.define("D9.7", eq(implied(alpha, width), alpha / sqrt(width)), by="the plain rate"),
    D.exact("D9.8", eq(alpha / (2 * wanted(alpha, width)), 1 / sqrt(width)), by="the balance is the size at the start"),
    D.exact("D9.9", lt(wanted(Rational(111, 100000), 768), Rational(1539, 100000)), by="0.0154, from above …"),
    D.exact("D9.10", gt(wanted(Rational(111, 100000), 768), Rational(1538, 100000)), by="… and from below"),
    D.exact(
        "D9.11", lt(implied(Rational(111, 100000), 768), Rational(401, 10**7)), by="$4.0\\cdot10^{-5}$, from above …"
    ),
    D.exact("D9.12", gt(implied(Rational(111, 100000), 768), Rational(4004, 10**8)), by="… and from below"),
)

# %% [markdown]
# **3. Two processes.** Two processes share the work. Each folds the gradients of its own micro-batches into its own momentum, and before
# the parameters move they replace both momenta by their mean. Is that the momentum of the joint batch?
#
# <details><summary>Solution</summary>
#
# Yes. The momentum is linear in the gradients, and both started from the same $m_0$. So the mean of both is what one process would have
# with the mean gradient. It has to be done once per block, not once per micro-batch: `average_momentum_`.
#
# </details>

# %% tags=["hide-cell"]
k = Symbol("k", integer=True, positive=True)  # the experiments have used the name for numbers
D.exact(
    "D9.13",
    eq(
        (block(k * g1, k) + block(k * g2, k)) / 2,
        beta * start + (1 - beta) * (g1 + g2) / 2,
    ),
    by="mean of two momenta with the mean gradients $g_1$ and $g_2$",
)

# %% [markdown]
# ### Where the idea went since
#
# That hidden layers want a rate like $1/n$ under sign-like steps is known from the theory of wide networks, maximal update
# parametrization ([arXiv 2203.03466](https://arxiv.org/abs/2203.03466)). That weight decay and random steps settle at a size is called rotational
# equilibrium ([arXiv 2305.17212](https://arxiv.org/abs/2305.17212)). Freeing each gradient during the backward pass is the idea of LOMO
# ([arXiv 2306.09782](https://arxiv.org/abs/2306.09782)). And the sign of a matrix in another sense, with all singular values made one,
# is the step of Muon.
