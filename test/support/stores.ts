// The stores of our own that keep state: for each, how a test gets a handle on a fresh one.

import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { type Backend, connect } from 'keepsake'
import { folder } from './folder.ts'

export type Store = {
  readonly name: string
  /** Opens handles on one fresh store: the same handle again where it can have but one. */
  readonly opener: (t: TestContext) => () => Promise<Backend>
}

const memory: Store = {
  name: 'memory',
  opener: () => {
    const backend = connect('memory:')
    return () => backend
  },
}

/** A store that handles share by its path. */
const onDisk = (name: string): Store => ({
  name,
  opener: (t) => {
    const path = join(folder(t), 'sessions')
    return async () => {
      const backend = await connect(`${name}:${path}`)
      t.after(() => backend.close?.())
      return backend
    }
  },
})

export const stores: readonly Store[] = [memory, onDisk('sqlite'), onDisk('file')]
