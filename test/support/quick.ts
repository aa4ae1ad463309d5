// How much of its work a test does: all of it, or with KEEPSAKE_QUICK=1 (npm run test:quick) a tenth, and no server.

export const QUICK = process.env.KEEPSAKE_QUICK === '1'

/** How often a property is tried, of so many times in a whole run. */
export const runs = (all: number): number => (QUICK ? Math.ceil(all / 10) : all)
