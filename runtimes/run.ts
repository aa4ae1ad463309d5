// Runs keepsake, packed as it would be published, in each runtime and each test runner: `npm run runtimes`.

import { execFile, spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { knownFailures } from './known-failures.ts'
import { testRunners } from './test-runners.ts'

const root = resolve(import.meta.dirname, '..')
const tools = join(import.meta.dirname, 'node_modules')
const work = mkdtempSync(join(tmpdir(), 'keepsake-runtimes-'))
const app = join(work, 'app')
const execute = promisify(execFile)
const versionOf = (name: string): string => JSON.parse(readFileSync(join(tools, name, 'package.json'), 'utf8')).version

type Command = readonly [program: string, ...args: string[]]

const call = async (folder: string, [program, ...args]: Command): Promise<string> => {
  const options = { cwd: folder, timeout: 600_000, maxBuffer: 2 ** 26, env: { ...process.env, NO_COLOR: '1', CI: '1' } }
  const { stdout, stderr } = await execute(program, args, options).catch((error) => {
    throw new Error(`${error.message}\n${error.stdout ?? ''}`)
  })
  return `${stdout}${stderr}`
}
const npm = (folder: string, ...args: string[]) => call(folder, ['npm', ...args, '--no-audit', '--no-fund', '--silent'])

/** The result of a group of checks: the message of each check that failed. */
type Result = { readonly total: number; readonly failed: Readonly<Record<string, string>>; readonly stray?: string[] }

type Runtime = {
  readonly name: string
  /** The command that runs a program. */
  readonly command: Command
  /** The server of the runtime for Fetch handlers. */
  readonly server: string
  readonly databases: readonly string[]
}

const nodes = [22, 24, 26]
  .map((major) => ({ major, binary: join(tools, `node${major}/bin/node`) }))
  .filter(({ binary }) => existsSync(binary))
const runtimes: readonly Runtime[] = [
  ...nodes.map(({ major, binary }) => ({
    name: `Node ${versionOf(`node${major}`)}`,
    command: [binary] as const,
    server: 'keepsake/serve',
    databases: ['node:sqlite'],
  })),
  {
    name: `Bun ${versionOf('bun')}`,
    // Without this option Bun would install missing packages when they are imported.
    command: [join(tools, '.bin/bun'), '--no-install'],
    server: 'Bun.serve',
    databases: ['node:sqlite', 'bun:sqlite'],
  },
  {
    name: `Deno ${versionOf('deno')}`,
    command: [join(tools, '.bin/deno'), 'run', '-A'],
    server: 'Deno.serve',
    databases: ['node:sqlite'],
  },
]
const worker = `workerd ${versionOf('workerd')}`

const log: string[] = []
const note = (line: string): void => {
  log.push(line)
  console.error(line)
}

let problems = 0
/** Judges a result: a failure must be a known one, and a known failure must still fail. Returns the cell of the table. */
const judge = (runtime: string, capability: string, { total, failed }: Result): string => {
  const known = knownFailures.filter((one) => runtime.startsWith(one.runtime) && capability === one.capability)
  for (const [name, message] of Object.entries(failed)) {
    const reason = known.find((one) => name.startsWith(one.name))?.reason
    if (reason === undefined) problems += 1
    note(`${runtime}, ${capability}: ${reason === undefined ? 'FAILED' : 'cannot hold'}: ${name}: ${reason ?? message}`)
  }
  for (const { name } of known) {
    if (Object.keys(failed).some((one) => one.startsWith(name))) continue
    problems += 1
    note(
      `${runtime}, ${capability}: FAILED: ${name} is a known failure, but it holds. Remove it from known-failures.ts.`,
    )
  }
  const held = total - Object.keys(failed).length
  note(`${runtime}, ${capability}: ${held} of ${total}`)
  return `${held} of ${total}`
}

const columns = [...runtimes.map(({ name }) => name), worker]
const cells = new Map<string, Map<string, string>>()
const setCell = (capability: string, runtime: string, text: string): void => {
  const row = cells.get(capability) ?? new Map()
  cells.set(capability, row.set(runtime, text))
}

/** Runs work that returns a result, and sets its cell. */
const tryCapability = async (runtime: string, capability: string, check: () => Promise<Result>): Promise<void> => {
  try {
    setCell(capability, runtime, judge(runtime, capability, await check()))
  } catch (error) {
    problems += 1
    note(`${runtime}, ${capability}: FAILED: ${(error as Error).message.slice(0, 2_000)}`)
    setCell(capability, runtime, 'fails')
  }
}

const resultOf = (output: string): Result => {
  const line = output.split('\n').findLast((text) => text.startsWith('{"total":'))
  if (line === undefined) throw new Error(`The program printed no result: ${output.slice(-1_000)}`)
  return JSON.parse(line)
}

const checkRuntime = async ({ name, command, server, databases }: Runtime): Promise<void> => {
  const stores = join(work, name.replaceAll(' ', '-'))
  mkdirSync(stores)
  const run = async (program: string, ...args: string[]) => resultOf(await call(app, [...command, program, ...args]))
  const check = (capability: string, ...args: string[]) =>
    tryCapability(name, capability, () => run('checks.mjs', ...args))
  await check('`import` of every subpath', 'import')
  await check('`require()` of every subpath', 'require')
  await check('`memory:`', 'backend', 'memory:')
  await check('`cookie:`', 'backend', 'cookie:')
  await check('`sqlite:`', 'backend', `sqlite:${join(stores, 'a.db')}`)
  await check('`file:`', 'backend', `file:${join(stores, 'files')}`)
  for (const driver of databases) {
    await check(`an open database of \`${driver}\``, 'database', driver, join(stores, `${driver.replace(':', '-')}.db`))
  }
  await check('`serve`', 'serve')
  for (const [capability, kind] of [
    ['cases of adapters: Fetch handler', server],
    ['cases of adapters: node:http', 'node:http'],
    ['cases of adapters: Express 5', 'Express'],
  ] as const) {
    await tryCapability(name, capability, () => run('adapter-cases.mjs', kind))
  }
  // On Deno and Bun `serve` is not the server of the runtime.
  if (server !== 'keepsake/serve')
    await tryCapability(name, 'cases of adapters: `serve`', () => run('adapter-cases.mjs', 'keepsake/serve'))
  else setCell('cases of adapters: `serve`', name, cells.get('cases of adapters: Fetch handler')?.get(name) ?? 'fails')
}

/** What Deno prints if a permission is missing. */
const checkPermissions = async (): Promise<Result> => {
  const deno = join(tools, '.bin/deno')
  const failed: Record<string, string> = {}
  const backends = { 'sqlite:p.db': '--allow-write', 'file:p': '--allow-write' }
  for (const [backend, permission] of Object.entries(backends)) {
    const output = await call(app, [deno, 'run', '--allow-read', 'permissions.mjs', backend])
    if (!output.includes(`run again with the ${permission} flag`)) failed[backend] = output
    const allowed = ['--allow-read=.', '--allow-write=.', '--allow-sys=uid']
    const opened = await call(app, [deno, 'run', ...allowed, 'permissions.mjs', backend])
    if (!opened.includes('ready')) failed[`${backend} with permissions`] = opened
  }
  return { total: 4, failed }
}

/** Starts workerd on the bundle of Wrangler, and calls `use` with its URL. */
const onWorkerd = async (use: (url: string) => Promise<void>): Promise<void> => {
  const out = join(app, 'out')
  writeFileSync(
    join(app, 'wrangler.json'),
    JSON.stringify({ name: 'checks', main: 'worker.mjs', compatibility_date: '2026-11-01' }),
  )
  await call(app, [process.execPath, join(tools, 'wrangler/bin/wrangler.js'), 'deploy', '--dry-run', '--outdir', out])
  cpSync(join(import.meta.dirname, 'workerd.capnp'), join(out, 'workerd.capnp'))
  const server = spawn(join(tools, 'workerd/bin/workerd'), ['serve', join(out, 'workerd.capnp'), '--control-fd=3'], {
    stdio: ['ignore', 'inherit', 'inherit', 'pipe'],
  })
  try {
    const control = server.stdio[3] as NodeJS.ReadableStream
    const port = await new Promise<number>((resolve, reject) => {
      control.once('data', (line) => resolve(JSON.parse(String(line)).port))
      server.once('exit', (code) => reject(new Error(`workerd ended with ${code}`)))
    })
    await use(`http://localhost:${port}`)
  } finally {
    server.kill()
  }
}

const checkWorker = async (): Promise<void> => {
  await onWorkerd(async (url) => {
    const get = async <T>(path: string): Promise<T> => (await fetch(url + path)).json() as Promise<T>
    await tryCapability(worker, '`import` of every subpath', () => get('/import'))
    await tryCapability(worker, '`memory:`', () => get('/memory'))
    await tryCapability(worker, '`cookie:`', () => get('/cookie'))
    await tryCapability(worker, 'a backend that hangs: 503, in each request', async () => {
      const failed: Record<string, string> = {}
      for (const turn of ['first', 'second', 'third']) {
        const status = await get<number>('/hanging')
        if (status !== 503) failed[turn] = String(status)
      }
      return { total: 3, failed }
    })
    for (const refusal of await get<string[]>('/refusals')) {
      if (!refusal.startsWith('unknown_backend: Cloudflare Workers keep no files')) problems += 1
      note(`${worker}: ${refusal}`)
    }
  })
}

const prepare = async () => {
  mkdirSync(app)
  await npm(join(root, 'dist'), 'pack', '--pack-destination', work)
  const [tarball] = (await call(work, ['ls'])).split('\n').filter((name) => name.endsWith('.tgz'))
  writeFileSync(join(app, 'package.json'), '{ "private": true, "type": "module" }')
  const packages = ['express', 'h3', 'srvx'].map((name) => `${name}@${versionOf(name)}`)
  await npm(app, 'install', join(work, tarball as string), ...packages)
  for (const name of ['checks', 'core-checks', 'adapter-cases', 'permissions', 'worker'])
    cpSync(join(import.meta.dirname, `${name}.mjs`), join(app, `${name}.mjs`))
  const { exports } = JSON.parse(readFileSync(join(app, 'node_modules/keepsake/package.json'), 'utf8'))
  const loaders = Object.keys(exports)
    .filter((path) => path !== './package.json')
    .map((path) => `'keepsake${path.slice(1)}'`)
    .map((name) => `${name}: () => import(${name}),`)
  writeFileSync(join(app, 'loaders.mjs'), `export const loaders = { ${loaders.join(' ')} }\n`)
  cpSync(join(import.meta.dirname, 'tests'), join(app, 'tests'), { recursive: true })
  symlinkSync(join(tools, 'vitest'), join(app, 'node_modules/vitest'))
}

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n')

try {
  await prepare()
  for (const runtime of runtimes) await checkRuntime(runtime)
  const deno = runtimes.find(({ name }) => name.startsWith('Deno'))?.name as string
  await tryCapability(deno, 'a missing permission has a name in the error', checkPermissions)
  await checkWorker()
  const runnerRows: string[][] = []
  for (const { name, version, how, command } of testRunners(tools, process.execPath)) {
    let result = 'works'
    try {
      const output = await call(app, command)
      note(
        `${name} ${version}, ${how}: ${output
          .split('\n')
          .filter((line) => /pass|fail/i.test(line))
          .slice(-3)
          .join(' · ')}`,
      )
    } catch (error) {
      problems += 1
      result = 'fails'
      note(`${name}, ${how}: FAILED: ${(error as Error).message.slice(0, 3_000)}`)
    }
    runnerRows.push([`${name} ${version}`, `\`${how}\``, result])
  }
  const report = [
    `npm run runtimes, ${new Date().toISOString().slice(0, 10)}, ${process.platform} ${process.arch}`,
    table(
      ['', ...columns],
      [...cells].map(([capability, row]) => [capability, ...columns.map((column) => row.get(column) ?? '–')]),
    ),
    table(['Test runner', 'How', 'Result'], runnerRows),
  ].join('\n\n')
  console.log(report)
  writeFileSync(join(import.meta.dirname, 'results.txt'), `${report}\n\n${log.join('\n')}\n`)
  process.exitCode = problems === 0 ? 0 : 1
} finally {
  rmSync(work, { recursive: true, force: true })
}
