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
#     archive: 7196
#     title_zh: 你的CRF层的学习率可能不够大
#     title_en: Your CRF layer's learning rate may not be large enough
#     date: 2020-02-07
#     prerequisites: []
#     minutes: {quick: 1, full: 30}
# ---

# %% [markdown]
# # Does your CRF layer learn anything at all?
#
# *Your CRF layer's learning rate may not be large enough* · <span lang="zh">你的CRF层的学习率可能不够大</span>
#
# > **Post** [<span lang="zh">你的CRF层的学习率可能不够大</span>](https://kexue.fm/archives/7196) by Su Jianlin
# > (<span lang="zh">苏剑林</span>), 2020-02-07. This chapter is an independent work, in words of its own.
#
# **The question.** To cut a Chinese sentence into words, one gives a tag to each character: *single*, *begin*, *middle* or
# *end* of a word. A conditional random field (CRF) on top of a network scores whole tag sequences, so that it can know that
# *begin* is never followed by *single*. In 2020 many found that BERT with a CRF is no better than BERT without one. Is the
# CRF useless? Or is its small matrix of transitions, trained at the learning rate that suits BERT, simply never learned?
#
# **The answer in one sentence.** It is never learned: Adam moves an entry by about its learning rate per step, so at a
# fine-tuning rate the transitions stay where they were drawn, and a rate 100 to 1000 times larger gives a sensible matrix,
# which helps as far as the network below is weak.
#
# **Abstract.** We derive the CRF with its sum over all paths, its gradients and its best path, and check each line. Then we
# ask what "a bad matrix" means: the transitions have a gauge freedom, and only what remains after double centring can be
# judged. We bound how far Adam can move an entry, and find which of the post's two explanations of the standstill is the
# right one. Last, a small tagger on real newspaper text shows the effect, with numbers.
#
# <p lang="zh"><b>摘要。</b>本章先推导并逐步验证线性链CRF的配分函数、梯度与最优路径；再指出转移矩阵存在“规范自由度”，只有双重中心化之后的部分才有意义；然后给出Adam下转移矩阵所能移动的距离。最后用真实的分词语料与一个小模型，重现“CRF层需要更大的学习率”这一现象。</p>

# %% tags=["setup", "hide-input"]
# The build writes the cell that installs kexue_lib (only where it is missing) in place of this comment.

# %% tags=["parameters"]
scale = "quick"  # or "full": one GPU, the same code with larger numbers
seed = 0
device = "auto"
shrink = 1  # divides the size of the experiments: a run in miniature

# %% tags=["hide-input"]
import itertools

import sympy as sp
from IPython.display import display
from sympy import Abs, Derivative, Function, Integral, Max, Rational, Sum, Symbol, exp, log, oo, sign, sqrt

from kexue_lib.derive import Derivation, Integer, Interval, MaxOver, eq, ge, le, lt, similar, tends

# %% [markdown]
# ## 1 The sum over all paths
#
# A sentence has $n$ characters, a tag is one of $k$ numbers. For cutting words, $k = 4$, and we write the tags as $s, b, m, e$:
# a word of one character is $s$, a longer one $b\,m \cdots m\,e$. The network gives each character $t$ a score $h_t(j)$ for
# each tag $j$, the *emissions*. The CRF adds a score $A_{ij}$ for each step from tag $i$ to tag $j$, the *transitions*, the same
# at all places. A path $y = (y_1, \dots, y_n)$ of tags gets the score
#
# $$ S(y) = h_1(y_1) + A_{y_1 y_2} + h_2(y_2) + \dots + A_{y_{n-1} y_n} + h_n(y_n) $$
#
# and the probability $e^{S(y)}/Z$. The constant $Z$ is a sum over all $k^n$ paths. For a line of 48 characters that are
# $10^{28}$ of them. The steps below are written for three characters, the smallest sentence that has an inner one; nothing in
# them depends on the three.
#
# Every numbered line was checked by the machine that made this page, or is marked as defined, assumed or cited. The badge
# says which, and how; the code that did it is one click away.

# %% tags=["hide-input"]
k = Symbol("k", integer=True, positive=True)
i, j, l, q = sp.symbols("i j l q", integer=True, positive=True)
y1, y2, y3 = sp.symbols("y_1 y_2 y_3", integer=True, positive=True)
h1, h2, h3 = (sp.IndexedBase(f"h_{t}", shape=(k,), real=True) for t in (1, 2, 3))
A = sp.IndexedBase("A", shape=(k, k), real=True)
alpha1, alpha2, alpha3 = (sp.IndexedBase(rf"\alpha_{t}", shape=(k,), positive=True) for t in (1, 2, 3))
Z = Symbol("Z", positive=True)
S = h1[y1] + A[y1, y2] + h2[y2] + A[y2, y3] + h3[y3]


def total(term, index=j):
    """The sum over all tags."""
    return Sum(term, (index, 1, k))


def over_paths(weight, *fixed):
    """The sum over all paths, but for the places that are fixed."""
    for y in (y1, y2, y3):
        if y not in fixed:
            weight = total(weight, y)
    return weight


D = Derivation("crf-learning-rate")
display(
    D.define("D1.1", eq(Z, over_paths(exp(S))), by="three characters: the sum over all $k^3$ paths"),
    D.define("D1.2", eq(alpha1[j], exp(h1[j])), by="the weight of all beginnings that stand at tag $j$ at place 1"),
    D.define("D1.3", eq(alpha2[j], total(alpha1[i] * exp(A[i, j]), i) * exp(h2[j])), by="one step further"),
    D.define("D1.4", eq(alpha3[j], total(alpha2[i] * exp(A[i, j]), i) * exp(h3[j])), by="and another one"),
)

# %% [markdown]
# The distributive law turns the sum over paths into a chain of short sums: what does not depend on the tags before can be
# pulled out. The cost falls from $k^n$ to $n\,k^2$.

# %% tags=["hide-input"]
G2, G3 = (sp.IndexedBase(f"G_{t}", shape=(k, k), positive=True) for t in (2, 3))
display(
    D.exact("D1", eq(Z, total(alpha3[j])), dims={k: (2, 3)}, by="all beginnings that reach the last place"),
    D.define("D1.5", eq(G2[i, j], exp(A[i, j]) * exp(h2[j])), by="the weights of the first step"),
    D.define("D1.6", eq(G3[i, j], exp(A[i, j]) * exp(h3[j])), by="and of the second one, as matrices"),
    D.exact(
        "D1.7",
        eq(Z, total(total(total(exp(h1[l]) * G2[l, i] * G3[i, j], l), i), j)),
        dims={k: (2, 3)},
        by="the same as a row vector, times a matrix for each step, times a column of ones",
    ),
    D.exact(
        "D1.8",
        eq(log(alpha2[j]), log(total(exp(log(alpha1[i]) + A[i, j]), i)) + h2[j]),
        opaque=["D1.2"],
        by="in logarithms, as it is computed",
    ),
)

# %% [markdown]
# In logarithms a step is a *logsumexp*. Two things about this recursion will be used later. Without transitions the sum
# falls apart into one softmax for each place. So a CRF with $A = 0$ *is* the softmax classifier.

# %% tags=["hide-input"]
D.exact(
    "D8",
    eq(
        log(over_paths(exp(h1[y1] + h2[y2] + h3[y3]))),
        log(total(exp(h1[j]))) + log(total(exp(h2[j]))) + log(total(exp(h3[j]))),
    ),
    by="$A = 0$: a product of sums",
)

# %% [markdown]
# And the product of step matrices may be bracketed in any way. So it need not be computed from left to right: multiply
# neighbours first, then pairs of neighbours, and so on. That is a tree of about $\log_2 n$ levels. It does more work, $k^3$
# instead of $k^2$ for each step, but few operations wait for each other. For few tags it is faster on any machine that
# computes many small products at once.

# %% tags=["hide-input"]
X, Y, W = (sp.IndexedBase(name, shape=(k, k), real=True) for name in ("X", "Y", "W"))
levels, level = sp.symbols("L l", integer=True, positive=True)
display(
    D.exact(
        "D9",
        eq(
            log(total(exp(log(total(exp(X[i, l] + Y[l, q]), l)) + W[q, j]), q)),
            log(total(exp(X[i, l] + log(total(exp(Y[l, q] + W[q, j]), q))), l)),
        ),
        dims={k: 2},
        by="the product with logsumexp in place of the sum is associative",
    ),
    D.exact(
        "D9.1",
        eq(Sum(2 ** (levels - level), (level, 1, levels)), 2**levels - 1),
        by="products in a tree over $2^L$ matrices, level by level: no more than in a row",
    ),
)

# %% [markdown]
# ## 2 Gradients are expected counts
#
# To learn $A$ one needs the derivative of $\log Z$. Every path that makes the step $i \to j$ contributes its probability, once
# for each time it makes it. So the derivative by $A_{ij}$ is the *expected number* of such steps, and the derivative by an
# emission is the probability of that tag at that place.

# %% tags=["hide-input"]


def path_weight(tags):
    """The weight of the paths through given tags."""
    return exp(S.subs(tags, simultaneous=True))


expected = (over_paths(path_weight({y1: i, y2: j}), y1, y2) + over_paths(path_weight({y2: i, y3: j}), y2, y3)) / Z
display(
    D.exact(
        "D2.1",
        eq(Derivative(log(Z), A[i, j]), expected),
        dims={k: 2},
        by="the expected number of steps $i \\to j$; all four entries for two tags",
    ),
    D.exact(
        "D2.2",
        eq(Derivative(log(Z), h2[j]), over_paths(path_weight({y2: j}), y2) / Z),
        dims={k: 2},
        by="the probability of tag $j$ at the second place",
    ),
)

# %% [markdown]
# The loss of a sentence with the true tags $y$ is $-\log p(y) = \log Z - S(y)$. The second term counts the true steps. For
# the true path $1 \to 1 \to 2$:

# %% tags=["hide-input"]
loss = log(Z) - S.subs({y1: 1, y2: 1, y3: 2}, simultaneous=True)
display(
    D.exact(
        "D2",
        eq(Derivative(loss, A[1, 2]), expected.subs({i: 1, j: 2}) - 1),
        dims={k: 2},
        by="expected minus observed number of steps",
    ),
    D.autograd(
        "D2.3",
        eq(Derivative(loss, A[1, 2]), expected.subs({i: 1, j: 2}) - 1),
        dims={k: 3},
        points=2,
        by="the same for three tags, by automatic differentiation",
    ),
)

# %% [markdown]
# So the CRF learns by comparing counts: where the model expects a step more often than the text has it, its score falls.
#
# ## 3 The best path, and when the transitions matter
#
# To tag a sentence one takes the path with the highest score. It is found by the same recursion with the maximum in place of
# the sum (Viterbi), for the same reason: a constant can be pulled out of a maximum too.

# %% tags=["hide-input"]
a = Symbol("a", real=True)
b = sp.IndexedBase("b", shape=(k,), real=True)
display(
    D.exact(
        "D3.1",
        eq(a + MaxOver(b[i], (i, 1, k)), MaxOver(a + b[i], (i, 1, k))),
        dims={k: (2, 3)},
        by="the distributive law of maximum and sum",
    ),
    D.numeric(
        "D3",
        eq(
            Max(*(h1[y] + A[y, z] + h2[z] for y in (1, 2) for z in (1, 2))),
            MaxOver(MaxOver(h1[i] + A[i, j], (i, 1, k)) + h2[j], (j, 1, k)),
        ),
        dims={k: 2},
        points=60,
        by="two characters, two tags: the best of all four paths, one place after the other",
    ),
)

# %% [markdown]
# The post explains the useless CRF so: the emissions are far apart, the best score of a character lies 3 or more above the
# others, and the transitions are below 1. Then the transitions drown, and the best path just takes the best tag of each
# character. This is claim C2, and it has a precise form. Let $R$ be the range of the transitions, the largest entry minus
# the smallest. Take the path of the best tags, change one inner tag from $a$ to $c$, between the neighbours $p$ and $q$, and
# let $\mu$ be what the emission loses by it.

# %% tags=["hide-input"]
tag_a, tag_c, tag_p, tag_q = sp.symbols("a c p q", integer=True, positive=True)
R, mu, run_length, more = (
    Symbol("R", nonnegative=True),
    Symbol("mu", real=True),
    Symbol("r", positive=True),
    Symbol("r_0", nonnegative=True),
)
i2, j2 = sp.symbols("i_2 j_2", integer=True, positive=True)
display(
    D.assume("D3.2", le(A[i, j] - A[i2, j2], R), by="$R$ is the range of the transitions"),
    D.assume("D3.3", ge(h2[tag_a] - h2[tag_c], mu), by="the margin: tag $a$ leads by $\\mu$ at least"),
)
D.exact(
    "D3.4",
    ge(
        A[tag_p, tag_a] + h2[tag_a] + A[tag_a, tag_q] - (A[tag_p, tag_c] + h2[tag_c] + A[tag_c, tag_q]),
        mu - 2 * R,
    ),
    made=D["D3.3"]
    .add(D["D3.2"].subs({i: tag_p, j: tag_c, i2: tag_p, j2: tag_a}).multiply(-1))
    .add(D["D3.2"].subs({i: tag_c, j: tag_q, i2: tag_a, j2: tag_q}).multiply(-1)),
    by="one changed tag touches two steps",
)

# %% [markdown]
# If $r$ neighbouring tags are changed, $r$ margins are lost and $r + 1$ steps are touched. That is no better:

# %% tags=["hide-input"]
D.exact(
    "D3.5",
    ge(run_length * mu - (run_length + 1) * R, run_length * (mu - 2 * R)),
    put={run_length: 1 + more},
    tight={more: 0},
    by="a run of $r$ changed tags loses at least $r\\,(\\mu - 2R)$",
)

# %% [markdown]
# So if every margin is above $2R$, the CRF decides nothing. In the post's matrix $R = 0.841 + 0.794 = 1.635$, hence
# $2R = 3.27$, close to the margins that the post reports. Its explanation is right for characters with a larger margin. It
# says nothing about those with a smaller one, and these are the ones where mistakes are made.
#
# ## 4 What can be known of the transitions
#
# The post prints a matrix in which the impossible step $s \to e$ has a higher score than the possible $s \to b$, and calls it
# absurd. Is that fair? Shift the scores: add a number $r_i$ to the whole row $i$ of $A$, and take it away from the emission of
# tag $i$. Nothing has happened, because every visit to tag $i$, but for the last, is followed by one step from row $i$. The
# same holds for columns.

# %% tags=["hide-input"]
r, c = (sp.IndexedBase(name, shape=(k,), real=True) for name in "rc")
shifted = sp.IndexedBase("A'", shape=(k, k), real=True)
moved1, moved2, moved3 = (sp.IndexedBase(f"h'_{t}", shape=(k,), real=True) for t in (1, 2, 3))
S_shifted = moved1[y1] + shifted[y1, y2] + moved2[y2] + shifted[y2, y3] + moved3[y3]
display(
    D.define("D4.1", eq(shifted[i, j], A[i, j] + r[i] + c[j]), by="offsets of rows and columns"),
    D.define("D4.2", eq(moved1[j], h1[j] - r[j]), by="taken from the emissions: the first place,"),
    D.define("D4.3", eq(moved2[j], h2[j] - r[j] - c[j]), by="an inner place,"),
    D.define("D4.4", eq(moved3[j], h3[j] - c[j]), by="and the last place"),
    D.exact("D4.5", eq(S_shifted, S), by="the score of every path is what it was"),
)

# %% [markdown]
# Physicists call this a gauge freedom. The layer that makes the emissions has an offset for each tag. It can take up
# $-r_j - c_j$ at all places, and what is left concerns only the two ends of the sentence:

# %% tags=["hide-input"]
everywhere = [h - r[y] - c[y] for h, y in ((h1[y1], y1), (h2[y2], y2), (h3[y3], y3))]
D.exact(
    "D4.6",
    eq(everywhere[0] + shifted[y1, y2] + everywhere[1] + shifted[y2, y3] + everywhere[2], S - c[y1] - r[y3]),
    by="the same offset at all places",
)

# %% [markdown]
# So the text hardly says anything about offsets of rows and columns. "$A_{se} > A_{sb}$" alone proves nothing: a column offset
# would turn it round. What no offset changes is the double-centred matrix: subtract from each entry the mean of its row and
# of its column, and add the mean of all.

# %% tags=["hide-input"]
Dc = sp.IndexedBase("D", shape=(k, k), real=True)


def centred(matrix):
    """The entry i, j after double centring."""
    mean_all = Sum(matrix[l, q], (l, 1, k), (q, 1, k)) / k**2
    return matrix[i, j] - total(matrix[i, l], l) / k - total(matrix[l, j], l) / k + mean_all


display(
    D.define("D4.7", eq(Dc[i, j], centred(A)), by="double centring"),
    D.exact("D4", eq(centred(shifted), Dc[i, j]), dims={k: (2, 3)}, by="does not depend on the gauge"),
    D.exact("D4.8", eq(total(Dc[i, l], l), 0), dims={k: (2, 3)}, by="its rows add up to zero"),
    D.exact(
        "D4.9",
        eq(Dc[i, j] + Dc[i2, j2] - Dc[i, j2] - Dc[i2, j], A[i, j] + A[i2, j2] - A[i, j2] - A[i2, j]),
        dims={k: 2},
        by="and it keeps every difference of differences",
    ),
)

# %% [markdown]
# Of the 16 pairs of tags eight are legal: $s \to s, b$; $b \to m, e$; $m \to m, e$; $e \to s, b$. Each row and each column has
# two. Therefore the offsets also cancel in a simple number, which we call the *contrast*: the mean score of the legal steps
# minus that of the illegal ones.

# %% tags=["hide-input"]
legal_pairs = [(1, 1), (1, 2), (2, 3), (2, 4), (3, 3), (3, 4), (4, 1), (4, 2)]
illegal_pairs = [pair for pair in itertools.product(range(1, 5), repeat=2) if pair not in legal_pairs]


def mean_of(matrix, pairs):
    """The mean of eight entries."""
    return sum(matrix[pair] for pair in pairs) / 8


display(
    D.exact(
        "D4.10",
        eq(mean_of(Dc, legal_pairs), (mean_of(A, legal_pairs) - mean_of(A, illegal_pairs)) / 2),
        dims={k: 4},
        by="the mean of $D$ over the legal steps is half the contrast",
    ),
    D.exact("D4.11", eq(mean_of(Dc, illegal_pairs), -mean_of(Dc, legal_pairs)), dims={k: 4}, by="the rest is opposite"),
)

# %% [markdown]
# Now the post's two matrices, rows and columns in the order $s, b, m, e$. The first comes from equal rates, the second from a
# rate of the CRF that is 1000 times that of BERT.

# %% tags=["hide-input"]
POST_EQUAL = [
    [-0.0517, -0.459, -0.244, 0.707],
    [-0.564, -0.142, 0.314, 0.613],
    [0.196, -0.334, -0.794, 0.672],
    [0.769, 0.841, -0.683, 0.572],
]
POST_THOUSAND = [
    [3.17, 2.16, -3.97, -2.04],
    [-3.89, -0.451, 1.67, 0.874],
    [-3.9, -4.41, 3.82, 2.45],
    [1.88, 0.991, -2.48, -0.247],
]


def half_contrast(matrix):
    """Half the contrast of a matrix of numbers, written as a sum of its entries."""
    signed = [
        Rational(str(matrix[a - 1][b - 1])) * (1 if (a, b) in legal_pairs else -1)
        for a, b in itertools.product(range(1, 5), repeat=2)
    ]
    return sp.Mul(Rational(1, 16), sp.Add(*signed, evaluate=False), evaluate=False)


u = Symbol("u", real=True)
display(
    D.exact("D4.12", lt(Abs(half_contrast(POST_EQUAL) - Rational(15, 100)), Rational(5, 1000)), by="equal rates: 0.15"),
    D.exact(
        "D4.13",
        lt(Abs(half_contrast(POST_THOUSAND) - Rational(24, 10)), Rational(5, 1000)),
        by="rate of the CRF 1000 times larger: 2.40",
    ),
    D.exact(
        "D4.14",
        eq(
            sqrt(16 * Rational(1, 16) ** 2 * Integral(u**2 / sqrt(3), (u, -sqrt(3) / 2, sqrt(3) / 2))),
            Rational(1, 8),
        ),
        by="standard deviation of the same number for the author's initialisation, uniform in $\\pm\\sqrt{3/4}$",
    ),
)

# %% [markdown]
# The verdict of the post survives the fair test. After equal rates the legal steps lead by an amount that a random matrix has
# easily: 0.15, against a standard deviation of 0.125. And no entry exceeds 0.841, where the initial values were drawn from
# $\pm 0.866$. This matrix does not look badly trained. It looks *untrained*. The second one has a lead of twenty standard
# deviations.
#
# ## 5 How far can an entry move?
#
# Why would it stay untrained? Adam divides a running mean of gradients by the root of a running mean of their squares. Let
# $g_1$ be the newest gradient of an entry, $g_2$ the one before, and so on, $T$ in all. The step is
#
# $$ \Delta = \eta\,\frac{1-\beta_1}{\sqrt{1-\beta_2}}\;\frac{M}{\sqrt V}, \qquad
#    M = \sum_{t=1}^T w_t\, g_t, \qquad V = \sum_{t=1}^T u_t\, g_t^2 $$
#
# with the learning rate $\eta$ and $w_t = \beta_1^{t-1}$, $u_t = \beta_2^{t-1}$. (Adam also corrects both means for their start
# from zero, and adds $\epsilon$ below; we come to that.) The size of the gradient cancels, and a bound follows from the square
# of a number being not negative. It is the inequality of Cauchy and Schwarz.

# %% tags=["hide-input"]
T, t = sp.symbols("T t", integer=True, positive=True)
x, lam = sp.symbols("x lambda", real=True)
g = sp.IndexedBase("g", shape=(T,), real=True)
w, u_ = (sp.IndexedBase(name, shape=(T,), positive=True) for name in "wu")
M, V, Q = Symbol("M", real=True), Symbol("V", nonnegative=True), Symbol("Q", positive=True)
display(
    D.define("D5.1", eq(M, Sum(w[t] * g[t], (t, 1, T))), by="the running mean, up to a factor"),
    D.define("D5.2", eq(V, Sum(u_[t] * g[t] ** 2, (t, 1, T))), by="that of the squares"),
    D.define("D5.3", eq(Q, Sum(w[t] ** 2 / u_[t], (t, 1, T))), by="a number that depends on the two betas only"),
    D.exact("D5.4", ge(x**2, 0), tight={x: 0}, by="a square is not negative"),
)
display(
    D.exact(
        "D5.5",
        ge(V - 2 * lam * M + lam**2 * Q, 0),
        made=D["D5.4"].subs(x, g[t] - lam * w[t] / u_[t]).multiply(u_[t]).sum(t, 1, T),
        by="weigh the square of $g_t - \\lambda w_t/u_t$ and sum",
    ),
    D.exact(
        "D5.6",
        ge(Q * V, M**2),
        made=D["D5.5"].subs(lam, M / Q).multiply(Q).add(M**2),
        opaque=["D5.1", "D5.2", "D5.3"],
        by="put the best $\\lambda$",
    ),
)

# %% [markdown]
# With the usual $\beta_1 = 0.9$ and $\beta_2 = 0.999$, $Q$ is a geometric sum, and the largest step has a limit as $T$ grows.

# %% tags=["hide-input"]
beta1, beta2 = Rational(9, 10), Rational(999, 1000)
g0 = Symbol("g_0", real=True, nonzero=True)
jump, b1, b2 = sp.symbols("g_1 beta_1 beta_2", positive=True)
geometric = Rational(37, 7) * (1 - Rational(30, 37) ** T)
display(
    D.exact(
        "D5.7", eq(Sum((beta1**2 / beta2) ** (t - 1), (t, 1, T)), geometric), by="$Q$, as $\\beta_1^2/\\beta_2 = 30/37$"
    ),
    D.limit(
        "D5.8",
        tends((1 - beta1) ** 2 / (1 - beta2) * geometric, T, oo, Rational(370, 7)),
        by="the square of the largest step over $\\eta$: no step exceeds $\\sqrt{370/7}\\,\\eta = 7.27\\,\\eta$",
    ),
    D.exact(
        "D5.9",
        eq((1 - b1) * jump / sqrt((1 - b2) * jump**2), (1 - b1) / sqrt(1 - b2)),
        domain={b1: Interval(0.1, 0.95), b2: Interval(0.1, 0.999)},
        by="one sudden gradient after silence; for the usual betas $\\sqrt{10} = 3.16$",
    ),
    D.exact(
        "D5",
        eq((1 - beta1) * Sum(beta1 ** (t - 1) * g0, (t, 1, T)) / (1 - beta1**T), g0),
        by="a steady gradient, with the correction for the start: the mean is the gradient, and the step is $\\eta$",
    ),
)

# %% [markdown]
# The value 3.16 is often quoted as the largest step. It belongs to one isolated gradient; gradients that grow can reach 7.27.
# (The correction for the start only makes the steps smaller, for these betas.)

# %% tags=["hide-input"]
D.numeric(
    "D5.10",
    lt((1 - beta2**T) / (1 - beta1**T) ** 2, 1),
    domain={T: Integer(1, 20000)},
    by="the square of the correction, at many $T$",
)

# %% [markdown]
# So in $T$ steps an entry of $A$ moves by about $\eta\,T$ at most, and by $7.27\,\eta\,T$ in no case. At the rate
# $10^{-5}$ that suits BERT, 2000 steps are worth $0.02$, and 5000 steps $0.05$. A useful matrix needs entries of size 2 to 4.
#
# Why does the same rate suffice for the emissions? Because they are sums. A dense layer makes $h = \sum_i W_i x_i$ from a
# hidden vector of width $d$. If every weight moves by $\eta$ in the helpful direction, the emission moves by $\eta$ times the
# sum of all $|x_i|$: for BERT's 768 entries, several hundred times as far.

# %% tags=["hide-input"]
d = Symbol("d", integer=True, positive=True)
eta = Symbol("eta", positive=True)
hidden, weight = sp.IndexedBase("x", shape=(d,), real=True), sp.IndexedBase("W", shape=(d,), real=True)
display(
    D.exact("D5.11", eq(x * sign(x), Abs(x)), by="a number times its sign is its size"),
    D.exact(
        "D5.12",
        eq(
            Sum((weight[i] + eta * sign(hidden[i])) * hidden[i], (i, 1, d)),
            Sum(weight[i] * hidden[i], (i, 1, d)) + eta * Sum(Abs(hidden[i]), (i, 1, d)),
        ),
        made=D["D5.11"].subs(x, hidden[i]).multiply(eta).add(weight[i] * hidden[i]).sum(i, 1, d),
        by="each weight moves by $\\eta$: the emission moves by $\\eta\\sum_i |x_i|$",
    ),
)

# %% [markdown]
# ## 6 Does the gradient vanish?
#
# The post gives a second reason: once the emissions fit, nothing is left for the transitions to learn. Let us see at $A = 0$,
# where the CRF is a softmax at each place. There the probability of two neighbouring tags is a product.

# %% tags=["hide-input"]
p1, p2 = (sp.IndexedBase(f"p_{t}", shape=(k,), positive=True) for t in (1, 2))
without = exp(h1[y1] + h2[y2] + h3[y3])
display(
    D.define("D6.1", eq(p1[j], exp(h1[j]) / total(exp(h1[i]), i)), by="the softmax at the first place"),
    D.define("D6.2", eq(p2[j], exp(h2[j]) / total(exp(h2[i]), i)), by="and at the second"),
    D.exact(
        "D6.3",
        eq(over_paths(without.subs({y1: i, y2: j}, simultaneous=True), y1, y2) / over_paths(without), p1[i] * p2[j]),
        dims={k: (2, 3)},
        by="$A = 0$: neighbours are independent",
    ),
)

# %% [markdown]
# Let $\varepsilon_1$ and $\varepsilon_2$ be the probabilities of a mistake at the two places. By [D2](#D2) the step contributes
# $p_1(i)\,p_2(j)$, minus one if it is the true step, to the derivative by $A_{ij}$. If it is the true step, both factors are
# one minus a mistake. If not, one of the factors is part of a mistake, say $\varepsilon_1/(1+v)$ with $v \ge 0$, and the other is at
# most one, $1/(1+v')$.

# %% tags=["hide-input"]
e1, e2 = sp.symbols("epsilon_1 epsilon_2", nonnegative=True)
v, v_prime = sp.symbols("v v'", nonnegative=True)
n = Symbol("n", integer=True, positive=True)
display(
    D.exact(
        "D6.4",
        le(1 - (1 - e1) * (1 - e2), e1 + e2),
        tight={e1: 0},
        domain={e1: Interval(0, 1), e2: Interval(0, 1)},
        by="the true step",
    ),
    D.exact("D6.5", le(e1 / ((1 + v) * (1 + v_prime)), e1), tight={v: 0, v_prime: 0}, by="any other step"),
    D.exact(
        "D6.6",
        eq(Sum(e1 + e2, (t, 1, n - 1)), (n - 1) * (e1 + e2)),
        by="a sentence has $n - 1$ steps: each entry of the gradient is at most $2\\,(n-1)$ mistakes",
    ),
)

# %% [markdown]
# A character whose true tag leads the three others by a margin $\mu$ has a small probability of a mistake, and it falls like
# $e^{-\mu}$.

# %% tags=["hide-input"]
mistake = Function("varepsilon", positive=True)
rivals = Symbol("rho", positive=True)
margin = Symbol("mu", positive=True)
display(
    D.define("D6.7", eq(mistake(margin), 3 * exp(-margin) / (1 + 3 * exp(-margin))), by="three rivals at distance $\\mu$"),
    D.exact("D6.8", eq(1 - exp(margin) / (exp(margin) + 3), mistake(margin)), by="one minus the softmax"),
    D.limit("D6", similar(mistake(margin), 3 * exp(-margin), margin, oo), by="it falls like $e^{-\\mu}$"),
    D.exact("D6.9", lt(Abs(mistake(3) - Rational(13, 100)), Rational(1, 1000)), by="at the margin 3: 0.13"),
    D.exact("D6.10", lt(Abs(mistake(5) - Rational(2, 100)), Rational(1, 1000)), by="at the margin 5: 0.02"),
    D.exact(
        "D6.11",
        eq(mistake(6) / mistake(10), exp(4) * (1 + 3 * exp(-10)) / (1 + 3 * exp(-6))),
        by="from 6 to 10 it falls by $e^4$, nearly",
    ),
)

# %% [markdown]
# So the gradient does vanish as the emissions get better. But is this why the transitions stop? With plain gradient descent
# it would be. Adam divides the size of the gradient away: by [D5](#D5) a steady gradient moves an entry by $\eta$, be it
# large or small. What limits the entry is $\eta\,T$. A small gradient only drowns in noise more easily. Section 11 will tell
# the two reasons apart.
#
# ## 7 How to give the transitions a rate of their own
#
# A framework without rates for single parameters can still have them. The author's layer stores $\theta = A/s$ and uses
# $A = s\,\theta$. The chain rule multiplies the gradient by $s$, and reading multiplies the step by $s$ again.

# %% tags=["hide-input"]
s, eps, second = sp.symbols("s epsilon v", positive=True)
theta, slope, first, decay = sp.symbols("theta g m w", real=True)
xi = Symbol("xi", real=True)
objective = Function("f", real=True)
display(
    D.exact(
        "D7.1",
        eq(Derivative(objective(s * theta), theta), s * sp.Subs(Derivative(objective(xi), xi), xi, s * theta)),
        by="the chain rule: the gradient is $s$ times as large",
    ),
    D.exact(
        "D7.2",
        eq(s * (theta - eta * (s * slope)), s * theta - (s**2 * eta) * slope),
        by="gradient descent: $A$ moves as with the rate $s^2\\eta$",
    ),
    D.exact(
        "D7",
        eq(s * (theta - eta * (s * first) / (sqrt(s**2 * second) + eps)), s * theta - (s * eta) * first / (sqrt(second) + eps / s)),
        by="Adam: both means scale too, so that $A$ moves as with the rate $s\\,\\eta$ and the epsilon $\\epsilon/s$",
    ),
    D.exact(
        "D7.3",
        eq(s * (theta - eta * decay * theta), (1 - eta * decay) * (s * theta)),
        by="decoupled weight decay: the same share as without the scale",
    ),
)

# %% [markdown]
# So "a rate 1000 times larger" needs $s = 1000$ with Adam, but only $s = \sqrt{1000} \approx 32$ with gradient descent. In
# PyTorch a parameter group does the same without a trick; `kexue_lib.optim` has both, `scaled_param_groups` and
# `ScaledParameter`.
