// Opens a SQLite file with one driver, prints and changes the sessions of an owner, and adds one.

import { sqliteBackend } from 'keepsake/sqlite'
import { drivers } from './sqlite-drivers.ts'

const [driver = '', path = '', owner = '', key = '', version = ''] = process.argv.slice(2)
const backend = sqliteBackend(drivers[driver]?.(path) ?? path)
const listed = (await backend.byOwner?.list(owner)) ?? []
const answers: unknown[] = []
for (const { key, ...entry } of listed) {
  const got = await backend.get(key)
  const change = { value: JSON.stringify(driver), metadata: '', version, expiresAt: entry.expiresAt + 1 }
  answers.push(await backend.generate(key, entry), await backend.set(key, change, entry.version))
  process.stdout.write(`${JSON.stringify([{ key, ...entry }, got])}\n`)
}
const entry = { value: undefined, metadata: '1.abc', version: `${version.slice(0, -1)}-`, expiresAt: 1e14, owner }
answers.push(await backend.generate(key, entry), await backend.generate(key, { ...entry, version: 'other' }))
process.stdout.write(`${JSON.stringify(answers.map((answer) => answer ?? 'done'))}\n`)
