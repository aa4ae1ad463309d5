// Sets up a fresh clone, on whatever Node started npm: packages as locked, and with --services what the tests run.
'use strict'

const { execFileSync } = require('node:child_process')
const { createHash } = require('node:crypto')
const { existsSync, readdirSync, readFileSync, writeFileSync } = require('node:fs')
const { delimiter, join } = require('node:path')

const root = join(__dirname, '..')
const say = (line) => console.error(line)
const run = (command, args, env = {}) =>
  execFileSync(command, args, { cwd: root, stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, ...env } })

const lock = createHash('sha256')
  .update(readFileSync(join(root, 'package-lock.json')))
  .digest('hex')
const stamp = join(root, 'node_modules', '.lock-stamp')
if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== lock) {
  say('Installing packages (once, and again when package-lock.json changes) …')
  run(process.platform === 'win32' ? 'npm.cmd' : 'npm', ['ci'])
  writeFileSync(stamp, lock)
}

const own = join(root, 'node_modules', '.bin', 'node')
const version = existsSync(own) ? execFileSync(own, ['--version'], { encoding: 'utf8' }).trim() : process.version
const [major, minor] = version.slice(1).split('.').map(Number)
if (major < 22 || (major === 22 && minor < 18)) {
  say(
    `keepsake needs Node 22.18 or newer, and this is ${version}. Install one from https://nodejs.org, then run this again.`,
  )
  process.exit(1)
}

/** Test programs by the Debian package that has them, and the variable that names another one to use instead, if any. */
const programs = {
  'chromium-headless-shell': ['CHROME_PATH', 'chromium-headless-shell', 'chromium', 'google-chrome'],
  'mariadb-server': ['TEST_MYSQL_URL', 'mariadbd'],
  openssl: ['', 'openssl'],
  postgresql: ['TEST_POSTGRES_URL', 'postgres'],
  'redis-server': ['TEST_REDIS_URL', 'redis-server'],
}
/** What compose.yaml starts. */
const composed = {
  TEST_MYSQL_URL: 'mysql://root:x@127.0.0.1:13306/app',
  TEST_POSTGRES_URL: 'postgres://app:x@127.0.0.1:15432/app',
  TEST_REDIS_URL: 'redis://127.0.0.1:16379',
}

/** Debian keeps the programs of each PostgreSQL in a folder of its own. */
const ofPostgres = () => {
  const place = '/usr/lib/postgresql'
  return existsSync(place) ? readdirSync(place).map((version) => join(place, version, 'bin')) : []
}
const found = (names) => {
  const folders = [...(process.env.PATH || '').split(delimiter), '/usr/sbin', '/usr/local/sbin', ...ofPostgres()]
  return names.some((name) => folders.some((folder) => existsSync(join(folder, name))))
}
const missing = () =>
  Object.keys(programs).filter((name) => {
    const [variable, ...names] = programs[name]
    return !process.env[variable] && !found(names)
  })

if (process.argv.includes('--services') && missing().length > 0) {
  const isRoot = process.getuid !== undefined && process.getuid() === 0
  if (isRoot && found(['apt-get'])) {
    say(`Installing what the tests run: ${missing().join(', ')} …`)
    const quiet = { DEBIAN_FRONTEND: 'noninteractive' }
    run('apt-get', ['update', '-qq'], quiet)
    run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...missing()], quiet)
  }
  if (missing().length > 0) {
    say(`The tests need these programs, which are not on the PATH: ${missing().join(', ')}.`)
    say(`On Debian or Ubuntu: sudo apt-get install ${missing().join(' ')}`)
    const variables = missing().map((name) => programs[name][0])
    const urls = variables.filter((variable) => composed[variable])
    if (urls.length > 0) {
      say('Elsewhere: docker compose up -d --wait, and set what tells the tests of the servers that run:')
      for (const variable of urls) say(`  ${variable}=${composed[variable]}`)
    }
    if (variables.includes('CHROME_PATH'))
      say('Elsewhere: install Chromium or Chrome, and set CHROME_PATH to its executable.')
    process.exit(1)
  }
}
