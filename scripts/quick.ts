// Runs the tests that need neither a server nor a browser, their properties tried a tenth as often: npm run test:quick.

import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, resolve } from 'node:path'

const folder = resolve(import.meta.dirname, '../test')
/** A folder in memory, where there is one. */
const MEMORY = '/dev/shm'

/** What starts a server or a browser. */
const SLOW = new Set(['support/servers.ts', 'support/chromium.ts'])
/** It leaves the servers out in a quick run, so that nothing that it imports matters, except where a database is asked for by name. */
const STORES = 'support/stores.ts'
const DATABASE = /\b(?:postgresUrl|mysqlUrl)\b/

const importsOf = (file: string): string[] => {
  const text = readFileSync(join(folder, file), 'utf8')
  const paths = [...text.matchAll(/(?:from|import\()\s*'(\.[^']+\.ts)'/g)].map(([, path]) => path as string)
  return paths.map((path) => join(file, '..', path).replaceAll('\\', '/')).filter((path) => !path.startsWith('..'))
}

const isSlow = (file: string): boolean => SLOW.has(file) || (file !== STORES && importsOf(file).some(isSlow))

const tests = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  .map((file) => file.replaceAll('\\', '/'))
  .filter((file) => file.endsWith('.test.ts'))
  .filter((file) => !isSlow(file) && !DATABASE.test(readFileSync(join(folder, file), 'utf8')))

// Twice as many at once as there are processors, because some wait for a second or two.
const options = ['--test', `--test-concurrency=${2 * availableParallelism()}`, ...process.argv.slice(2)]
const child = spawn(process.execPath, [...options, ...tests.map((file) => join(folder, file))], {
  stdio: 'inherit',
  // What these tests are about is no disk.
  env: { ...process.env, KEEPSAKE_QUICK: '1', ...(existsSync(MEMORY) && { TMPDIR: MEMORY }) },
})
child.on('exit', (code) => {
  process.exitCode = code ?? 1
})
