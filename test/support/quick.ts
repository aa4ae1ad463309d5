// The quick mode of the tests: KEEPSAKE_QUICK=1 (npm run test:quick) runs a tenth of the random cases, and no server.

export const QUICK = process.env.KEEPSAKE_QUICK === '1'

/** The number of runs of a property, from its number in the full test run. */
export const runs = (all: number): number => (QUICK ? Math.ceil(all / 10) : all)
