// Builds the application of each folder for production, on keepsake as it would be published, and tries it: `npm run frameworks`.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'

const root = resolve(import.meta.dirname, '..')
const results = join(import.meta.dirname, 'results.md')

/** Runs a command, and returns the lines that it prints. It also prints them. */
const run = async (cwd: string, command: string, ...args: string[]): Promise<{ lines: string[]; code: number }> => {
  const child = spawn(command, args, { cwd, stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'close')
  const lines: string[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    console.log(line)
    lines.push(line)
  }
  const [code] = await ended
  return { lines, code: code ?? 1 }
}

const npm = async (cwd: string, ...args: string[]): Promise<readonly string[]> => {
  const { lines, code } = await run(cwd, 'npm', ...args, '--no-audit', '--no-fund', '--silent')
  if (code !== 0) throw new Error(`npm ${args.join(' ')} failed.`)
  return lines
}

const [wanted] = process.argv.slice(2)
const folders = readdirSync(import.meta.dirname)
  .filter((name) => existsSync(join(import.meta.dirname, name, 'check.ts')))
  .filter((name) => wanted === undefined || name === wanted)
  .sort()

const sections: string[] = []
let failed = 0
const dist = join(root, 'dist')
const [tarball = ''] = (await npm(dist, 'pack')).slice(-1)
try {
  for (const name of folders) {
    const folder = join(import.meta.dirname, name)
    await npm(folder, 'ci')
    await npm(folder, 'install', '--no-save', join(dist, tarball))
    const { lines, code } = await run(folder, process.execPath, 'check.ts')
    if (code !== 0) failed += 1
    const { dependencies, devDependencies } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
    const versions = Object.entries({ ...dependencies, ...devDependencies }).map(
      ([name, version]) => `${name} ${version}`,
    )
    const list = lines.flatMap((line) => {
      if (line.startsWith('# ')) return ['', `##${line}`, '']
      return /^(not )?ok /.test(line) ? [`- ${line}`] : []
    })
    sections.push([`## ${name}`, versions.join(', '), list.join('\n')].join('\n\n'))
  }
} finally {
  rmSync(join(dist, tarball), { force: true })
}
const heading = `# Frameworks

Each folder has an application. This is the output of \`npm run frameworks\` of ${new Date().toISOString().slice(0, 10)} on Node ${process.versions.node}: the application
is built for production on keepsake as it would be published, started, and tried over sockets and in Chromium.`
if (wanted === undefined) writeFileSync(results, `${[heading, ...sections].join('\n\n')}\n`)
process.exitCode = failed === 0 ? 0 : 1
