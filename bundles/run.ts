// Bundles an application with SQLite by each bundler, without options, and runs the bundle: `npm run bundles`.

import { execFile, spawn } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'

const root = resolve(import.meta.dirname, '..')
const tools = join(import.meta.dirname, 'node_modules')
const work = mkdtempSync(join(tmpdir(), 'keepsake-bundles-'))
const app = join(work, 'app')
const execute = promisify(execFile)
const versionOf = (name: string): string => JSON.parse(readFileSync(join(tools, name, 'package.json'), 'utf8')).version

const call = async (folder: string, command: string, ...args: string[]): Promise<string> => {
  const { stdout, stderr } = await execute(command, args, { cwd: folder, timeout: 300_000 }).catch((error) => {
    throw new Error(`${error.message}\n${error.stdout ?? ''}`)
  })
  return `${stdout}${stderr}`
}
const node = process.execPath
const bin = (name: string) => join(tools, '.bin', name)
const npm = (folder: string, ...args: string[]) => call(folder, 'npm', ...args, '--no-audit', '--no-fund', '--silent')

/** A bundler. `bundle` writes into a folder and returns the command that runs the bundle. */
type Bundler = {
  readonly package: string
  readonly how: string
  bundle(out: string): Promise<readonly [runtime: string, ...args: string[]]>
}

const entry = 'application.mjs'
const webpack = async (out: string, ...options: string[]) => {
  const cli = join(tools, 'webpack-cli/bin/cli.js')
  await call(app, node, cli, '--entry', `./${entry}`, '--target', 'node', '--mode', 'production', '-o', out, ...options)
}
const rspack = async (out: string, options: string) => {
  const output = `path: ${JSON.stringify(out)}, ${options}`
  const config = `export default { mode: 'production', target: 'node', entry: './${entry}', output: { ${output} } }\n`
  writeFileSync(join(app, 'rspack.config.mjs'), config)
  await call(app, node, join(tools, '@rspack/cli/bin/rspack.js'), 'build', '-c', 'rspack.config.mjs')
}
const rollup = async (out: string, format: string) => {
  const plugins = ['plugin-node-resolve', 'plugin-commonjs'].flatMap((name) => [
    '-p',
    join(tools, '@rollup', name, 'dist/cjs/index.js'),
  ])
  await call(app, node, join(tools, 'rollup/dist/bin/rollup'), entry, '-d', out, '-f', format, ...plugins)
}
const vite = async (out: string, config: string) => {
  writeFileSync(join(app, 'vite.config.mjs'), `export default ${config}\n`)
  await call(app, node, join(tools, 'vite/bin/vite.js'), 'build', '--ssr', entry, '--outDir', out, '--emptyOutDir')
}

const bundlers: readonly Bundler[] = [
  ...['esm', 'cjs'].map((format) => ({
    package: 'esbuild',
    how: `--bundle --platform=node --format=${format}`,
    async bundle(out: string) {
      const file = join(out, format === 'esm' ? 'a.mjs' : 'a.cjs')
      await call(app, bin('esbuild'), entry, '--bundle', '--platform=node', `--format=${format}`, `--outfile=${file}`)
      return [node, file] as const
    },
  })),
  {
    package: 'webpack',
    how: '--target node',
    async bundle(out) {
      await webpack(out)
      return [node, join(out, 'main.js')]
    },
  },
  {
    package: 'webpack',
    how: '--target node --output-module',
    async bundle(out) {
      await webpack(out, '--output-module', '--output-filename', 'a.mjs')
      return [node, join(out, 'a.mjs')]
    },
  },
  {
    package: '@rspack/core',
    how: "target: 'node'",
    async bundle(out) {
      await rspack(out, "filename: 'a.cjs'")
      return [node, join(out, 'a.cjs')]
    },
  },
  {
    package: '@rspack/core',
    how: "target: 'node', output.module: true",
    async bundle(out) {
      await rspack(out, "filename: 'a.mjs', module: true")
      return [node, join(out, 'a.mjs')]
    },
  },
  ...['es', 'cjs'].map((format) => ({
    package: 'rollup',
    how: `plugin-node-resolve, plugin-commonjs, -f ${format}`,
    async bundle(out: string) {
      await rollup(out, format)
      writeFileSync(join(out, 'package.json'), JSON.stringify({ type: format === 'es' ? 'module' : 'commonjs' }))
      return [node, join(out, 'application.js')] as const
    },
  })),
  {
    package: 'vite',
    how: 'build --ssr',
    async bundle(out) {
      await vite(out, '{}')
      // Vite does not bundle packages.
      cpSync(join(app, 'node_modules'), join(out, 'node_modules'), { recursive: true })
      return [node, join(out, 'application.js')]
    },
  },
  {
    package: 'vite',
    how: 'build --ssr, ssr.noExternal: true',
    async bundle(out) {
      await vite(out, '{ ssr: { noExternal: true } }')
      return [node, join(out, 'application.js')]
    },
  },
  ...['node', 'bun'].map((target) => ({
    package: 'bun',
    how: `build --target=${target}`,
    async bundle(out: string): ReturnType<Bundler['bundle']> {
      await call(app, bin('bun'), 'build', entry, `--target=${target}`, '--outfile', join(out, 'a.mjs'))
      // Without this option Bun would install missing packages when they are imported.
      return target === 'bun' ? [bin('bun'), '--no-install', join(out, 'a.mjs')] : [node, join(out, 'a.mjs')]
    },
  })),
  {
    package: 'deno',
    how: 'bundle --platform deno',
    async bundle(out) {
      await call(app, bin('deno'), 'bundle', '--platform', 'deno', '-o', join(out, 'a.mjs'), entry)
      return [bin('deno'), 'run', '-A', join(out, 'a.mjs')]
    },
  },
]

const nextRoute = async (option: string): Promise<void> => {
  const folder = join(work, 'next')
  rmSync(join(folder, '.next'), { recursive: true, force: true })
  const cli = join(folder, 'node_modules/next/dist/bin/next')
  await call(folder, node, cli, 'build', option)
  const server = spawn(node, [cli, 'start', '-p', '0', '-H', '127.0.0.1'], {
    cwd: folder,
    env: { ...process.env, SESSIONS: `sqlite:${join(folder, 'sessions.db')}` },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  try {
    let origin: string | undefined
    for await (const line of createInterface({ input: server.stdout })) {
      origin = /http:\/\/\S+/.exec(line)?.[0] ?? origin
      if (line.includes('Ready')) break
    }
    const url = `${origin}/visits`
    const first = await fetch(url)
    const { token, missing } = (await first.json()) as { token: string; missing: string[] }
    const wrong = missing.filter((text) => !/^unknown_backend: .*npm install \w+$/.test(text))
    if (wrong.length > 0) throw new Error(`The error of a missing driver is wrong: ${wrong.join('; ')}`)
    const cookie = first.headers
      .getSetCookie()
      .map((line) => line.split(';')[0])
      .join('; ')
    const { n } = (await (await fetch(url, { headers: { cookie } })).json()) as { n: number }
    if (n !== 2) throw new Error(`The second request counted ${n} requests. Expected: 2.`)
    const body = new FormData()
    body.append('_csrf', token)
    body.append('file', new File(['leaves'], 'tea.txt'))
    const answer = await fetch(url, { method: 'POST', headers: { cookie }, body })
    const text = await answer.text()
    if (text !== 'leaves') throw new Error(`The upload was answered with ${answer.status} ${text}. Expected: leaves.`)
  } finally {
    server.kill()
  }
}

const prepare = async () => {
  for (const name of ['app', 'next']) mkdirSync(join(work, name))
  await npm(join(root, 'dist'), 'pack', '--pack-destination', work)
  const [tarball] = (await call(work, 'ls')).split('\n').filter((name) => name.endsWith('.tgz'))
  const packed = join(work, tarball as string)
  writeFileSync(join(app, 'package.json'), '{ "private": true, "type": "module" }')
  await npm(app, 'install', packed, `srvx@${versionOf('srvx')}`)
  cpSync(join(import.meta.dirname, entry), join(app, entry))
  const next = join(work, 'next')
  writeFileSync(join(next, 'package.json'), '{ "private": true }')
  await npm(next, 'install', packed, ...['next', 'react', 'react-dom'].map((name) => `${name}@${versionOf(name)}`))
  mkdirSync(join(next, 'app/visits'), { recursive: true })
  cpSync(join(import.meta.dirname, 'next-route.js'), join(next, 'app/visits/route.js'))
}

const rows: string[] = []
let failures = 0
const tryBundler = async (name: string, how: string, work: () => Promise<void>) => {
  let result = 'works'
  try {
    await work()
  } catch (error) {
    failures += 1
    console.error(error)
    result = (error as Error).message.split('\n').slice(0, 2).join(' ').slice(0, 120)
  }
  rows.push(`| ${name} ${versionOf(name)} | \`${how}\` | ${result} |`)
  console.error(rows.at(-1))
}

try {
  await prepare()
  for (const [i, { package: name, how, bundle }] of bundlers.entries()) {
    await tryBundler(name, how, async () => {
      const out = join(work, `out-${i}`)
      mkdirSync(out)
      const [runtime, ...args] = await bundle(out)
      const output = await call(out, runtime, ...args)
      if (!output.includes('works')) throw new Error(output)
    })
  }
  for (const option of ['--turbopack', '--webpack'])
    await tryBundler('next', `build ${option}`, () => nextRoute(option))
  const table = ['| Bundler | How | Result |', '|---|---|---|', ...rows].join('\n')
  console.log(table)
  const day = new Date().toISOString().slice(0, 10)
  writeFileSync(
    join(import.meta.dirname, 'results.txt'),
    `npm run bundles, ${day}, Node ${process.version}\n\n${table}\n`,
  )
  process.exitCode = failures === 0 ? 0 : 1
} finally {
  rmSync(work, { recursive: true, force: true })
}
