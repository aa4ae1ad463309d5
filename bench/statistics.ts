// Medians and ranges: the summary of many rounds.

export type Summary = { readonly median: number; readonly least: number; readonly most: number }

export const summary = (values: readonly number[]): Summary => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  const median = sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
  return { median, least: sorted[0] ?? Number.NaN, most: sorted.at(-1) ?? Number.NaN }
}

/** The ratio of two figures: of their medians, with the range of the ratios of single rounds. */
export const ratio = (figure: readonly number[], to: readonly number[]): Summary => {
  const rounds = summary(figure.map((value, round) => value / (to[round] ?? Number.NaN)))
  return { ...rounds, median: summary(figure).median / summary(to).median }
}

/** The sum of several figures for each round. */
export const sum = (figures: readonly (readonly number[])[]): number[] =>
  (figures[0] ?? []).map((_, round) => figures.reduce((all, figure) => all + (figure[round] ?? Number.NaN), 0))
