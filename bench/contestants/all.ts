// All contestants, in the order of the report.

import { adapters } from './adapters.ts'
import type { Contestant } from './contestant.ts'
import { floors } from './floors.ts'
import { ours } from './ours.ts'
import { peers } from './peers.ts'
import { raws } from './raw.ts'
import { storeContestants } from './store-contestants.ts'

export const contestants: readonly Contestant[] = [...floors, ...raws, ...ours, ...adapters, ...peers]

export const contestantNamed = (name: string): Contestant => {
  const found = [...contestants, ...storeContestants].find((contestant) => contestant.name === name)
  if (found === undefined) throw new Error(`No contestant has the name ${name}.`)
  return found
}
