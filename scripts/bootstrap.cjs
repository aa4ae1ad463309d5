// Sets up a clone, with any Node: installs the locked packages, and with --services the servers and browser of the tests.
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
    `This is Node ${version}, and keepsake needs 22.18 or newer. Install one from https://nodejs.org, then run this again.`,
  )
  process.exit(1)
}

/** The programs of the tests by Debian package. The first item is the variable that names another program or server. */
const programs = {
  'chromium-headless-shell': ['CHROME_PATH', 'chromium-headless-shell', 'chromium', 'google-chrome'],
  'mariadb-server': ['TEST_MYSQL_URL', 'mariadbd'],
  openssl: ['', 'openssl'],
  postgresql: ['TEST_POSTGRES_URL', 'postgres'],
  'redis-server': ['TEST_REDIS_URL', 'redis-server'],
}
/** The servers that compose.yaml starts. */
const composeUrls = {
  TEST_MYSQL_URL: 'mysql://root:x@127.0.0.1:13306/app',
  TEST_POSTGRES_URL: 'postgres://app:x@127.0.0.1:15432/app',
  TEST_REDIS_URL: 'redis://127.0.0.1:16379',
}

/** The folders of PostgreSQL programs: Debian has one for each version. */
const postgresFolders = () => {
  const folder = '/usr/lib/postgresql'
  return existsSync(folder) ? readdirSync(folder).map((version) => join(folder, version, 'bin')) : []
}
const isInstalled = (names) => {
  const folders = [...(process.env.PATH || '').split(delimiter), '/usr/sbin', '/usr/local/sbin', ...postgresFolders()]
  return names.some((name) => folders.some((folder) => existsSync(join(folder, name))))
}
const missingPrograms = () =>
  Object.keys(programs).filter((name) => {
    const [variable, ...names] = programs[name]
    return !process.env[variable] && !isInstalled(names)
  })

if (process.argv.includes('--services') && missingPrograms().length > 0) {
  const isRoot = process.getuid !== undefined && process.getuid() === 0
  if (isRoot && isInstalled(['apt-get'])) {
    say(`Installing the programs of the tests: ${missingPrograms().join(', ')} …`)
    const quiet = { DEBIAN_FRONTEND: 'noninteractive' }
    run('apt-get', ['update', '-qq'], quiet)
    run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...missingPrograms()], quiet)
  }
  if (missingPrograms().length > 0) {
    say(`The tests need these programs, which are not on the PATH: ${missingPrograms().join(', ')}.`)
    say(`On Debian or Ubuntu: sudo apt-get install ${missingPrograms().join(' ')}`)
    const variables = missingPrograms().map((name) => programs[name][0])
    const urls = variables.filter((variable) => composeUrls[variable])
    if (urls.length > 0) {
      say('On other systems: run docker compose up -d --wait, and set these variables for the tests:')
      for (const variable of urls) say(`  ${variable}=${composeUrls[variable]}`)
    }
    if (variables.includes('CHROME_PATH'))
      say('On other systems: install Chromium or Chrome, and set CHROME_PATH to its executable.')
    process.exit(1)
  }
}
