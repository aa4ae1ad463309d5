// Operations on files and folders that expect other processes to change the same folder.

import { randomUUID } from 'node:crypto'
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'

/** The code of an error of the file system, for example `ENOENT`. */
export const codeOf = (error: unknown): unknown => (error as { code?: unknown } | undefined)?.code

/** Renames a file. Returns false if there is none of that name. */
export const renameIfPresent = (from: string, to: string): boolean => {
  try {
    renameSync(from, to)
    return true
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false
    throw error
  }
}

/** Removes a file, unless another process has removed it. */
export const removeIfPresent = (path: string): void => {
  try {
    unlinkSync(path)
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error
  }
}

/** Calls `act` and ignores its error: for cleaning up that another process or a sweep does later. */
export const ignoreErrors = (act: () => void): void => {
  try {
    act()
  } catch {
    // The caller is throwing another error, or its work is done.
  }
}

/** Waits until the names in a folder survive a loss of power. */
export const flushFolder = (path: string): void => {
  const folder = openSync(path, 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}

/** Creates the folder `name` with everything that `fill` puts into it, in one step. Does nothing if it exists. */
export const createFolder = (directory: string, name: string, fill: (draft: string) => void): void => {
  if (existsSync(join(directory, name))) return
  const draft = join(directory, `${name}.${randomUUID()}.new`)
  mkdirSync(draft, 0o700)
  try {
    fill(draft)
    renameSync(draft, join(directory, name))
  } catch (error) {
    rmSync(draft, { recursive: true, force: true })
    // ENOTEMPTY, or its other names: another process created the folder first.
    if (!['ENOTEMPTY', 'EEXIST', 'EPERM'].includes(codeOf(error) as string)) throw error
  }
}
