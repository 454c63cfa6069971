"""The text of a new chapter; names in «guillemets» are filled in from the plan."""

TEMPLATE = r"""
# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kexue:
#     archive: «ARCHIVE»
#     title_zh: «YAML_ZH»
#     title_en: «YAML_EN»
#     date: «DATE»
#     prerequisites: []
#     minutes: {quick: 1, full: 30}
# ---

# %% [markdown]
# # «TITLE_EN»
#
# **The question.** Why does a mean of more samples scatter less? Because its variance is the variance of one sample,
# divided by their number. (*To be replaced: the reader's question, and the answer in one sentence.*)
#
# After the post [<span lang="zh">«TITLE_ZH»</span>](«URL») by Su Jianlin
# (<span lang="zh">苏剑林</span>), «DATE».
#
# **Abstract.** To be replaced: three sentences in your own words. What is derived, what is measured, what comes out.
#
# <p lang="zh"><b>摘要。</b>待写：用自己的话写三句。推导了什么，测量了什么，得到了什么。</p>

# %% tags=["setup", "hide-input"]
# The pipeline writes this cell (kexue_lib.book.setup_cell).

# %% tags=["parameters"]
scale = "quick"  # "full" is meant for a GPU
seed = 0
device = "auto"

# %% tags=["hide-input"]
import numpy as np
import sympy as sp

from kexue_lib import lab
from kexue_lib.derive import Derivation, eq

d = Derivation("«SLUG»")

# %% [markdown]
# ## Derivation
#
# Prose and checked steps in turn. (*To be replaced.*) A sample takes the values $+1$ and $-1$ with the
# probabilities $p$ and $1-p$; its variance is the mean square minus the squared mean.

# %%
p = sp.Symbol("p", nonnegative=True)
mean = p - (1 - p)
square = p * 1**2 + (1 - p) * (-1) ** 2
D1 = d.exact("D1", eq(square - mean**2, 4 * p * (1 - p)), by="expand both sides")
D1

# %% [markdown]
# What is missing to 1 is a square, so no $p$ scatters more than the fair coin, $p=\frac12$.

# %%
D2 = d.exact("D2", eq(1 - 4 * p * (1 - p), (1 - 2 * p) ** 2), by="binomial formula", uses=[D1])
D2

# %% [markdown]
# ## The claims and their rules
#
# Each rule stands here, before anything is measured.

# %%
claims = lab.Claims("«SLUG»")
claims.register(
    "C1",
    "a sample of $\\pm1$ has a variance of at most 1",
    kind="exact",
    how="derivation",
    steps=[D2],
)
claims.register(
    "C2",
    "the standard deviation of a mean of $n$ samples falls like $1/\\sqrt{n}$",
    kind="empirical",
    how="slope of a straight line through the logarithms",
    criteria=[lab.Criterion("slope", "slope in $[-0.55, -0.45]$", lambda m: -0.55 <= m["slope"] <= -0.45)],
)

# %% [markdown]
# ## Experiment
#
# What is measured, with what, and how often. (*To be replaced.*)

# %% tags=["experiment"]
run = lab.Run(scale=scale, seed=seed, device=device)
rng = run.rng("coins")
counts = np.array([16, 32, 64, 128, 256])
repeats = run.pick(quick=4000, full=400_000)
spread = np.array([rng.choice([-1.0, 1.0], size=(repeats, n)).mean(axis=1).std() for n in counts])
claims.measure("C2", slope=lab.slope(np.log(counts), np.log(spread)))

# %% tags=["experiment", "hide-input"]
with lab.figures.use() as plt:
    fig, ax = plt.subplots()
    ax.loglog(counts, spread, "o", label="measured")
    ax.loglog(counts, counts**-0.5, "-", label="1/√n")
    ax.set(xlabel="number of samples n", ylabel="standard deviation of the mean")
    ax.legend()
lab.figure(
    fig,
    name="spread",
    title="The mean of n coins scatters like 1/√n",
    caption="Standard deviation of the mean of $n$ fair coins over many repetitions, both axes logarithmic.",
    alt="Five points from n = 16 to n = 256 lie on a falling straight line of slope minus one half.",
    data={"n": counts, "standard deviation": spread},
)

# %% [markdown]
# ## Claims

# %% tags=["experiment"]
claims.table()

# %% [markdown]
# ## What to keep
#
# To be replaced: three sentences. The mean of $n$ samples scatters like $1/\sqrt{n}$. A coin scatters most when it is
# fair. Both were checked above.
#
# ## Exercises
#
# **1.** (*To be replaced.*) For which $p$ is the variance in D1 half as large as that of the fair coin?
#
# <details><summary>Solution</summary>
#
# $4p(1-p)=\frac12$ gives $p=\frac12\pm\frac{1}{2\sqrt2}$.
#
# </details>
"""
