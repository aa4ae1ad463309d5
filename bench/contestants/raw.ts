// The floors of local stores: only a prepared SELECT and UPDATE, and only readFileSync.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { FIELDS, storageKeys as keys, SESSIONS } from '../workloads.ts'
import type { Contestant, Raw } from './contestant.ts'

const json = JSON.stringify(FIELDS)
const keyOf = (at: number): string => keys[at % SESSIONS] as string

const sqlite = async (folder: string): Promise<Raw> => {
  const database = new DatabaseSync(join(folder, 'raw.db'))
  database.exec(`
    pragma journal_mode = wal;
    pragma synchronous = normal;
    create table sessions (key text primary key, value text not null, expires_at integer not null) strict, without rowid;
  `)
  const insert = database.prepare('insert into sessions (key, value, expires_at) values (?, ?, ?)')
  const select = database.prepare('select value, expires_at from sessions where key = ?')
  const update = database.prepare('update sessions set value = ?, expires_at = ? where key = ?')
  for (const key of keys) insert.run(key, json, Date.now())
  const read = (at: number) => {
    if ((select.get(keyOf(at)) as { value: string }).value.length !== json.length)
      throw new Error('A row has the wrong length.')
  }
  return {
    kind: 'raw',
    operations: {
      read,
      write: (at) => {
        read(at)
        if (update.run(json, Date.now(), keyOf(at)).changes !== 1) throw new Error('A row was not updated.')
      },
    },
    close: () => database.close(),
  }
}

const files = async (folder: string): Promise<Raw> => {
  const directory = join(folder, 'raw')
  mkdirSync(directory)
  const paths = keys.map((key) => join(directory, key))
  for (const path of paths) writeFileSync(path, json)
  return {
    kind: 'raw',
    operations: {
      read: (at) => {
        if (readFileSync(paths[at % SESSIONS] as string, 'utf8').length !== json.length)
          throw new Error('A file has the wrong length.')
      },
    },
  }
}

export const raws: readonly Contestant[] = [
  {
    name: 'raw: SQLite SELECT (+ UPDATE)',
    bare: 'nothing',
    workloads: ['read', 'write'],
    socketless: true,
    open: sqlite,
  },
  { name: 'raw: readFileSync', bare: 'nothing', workloads: ['read'], socketless: true, open: files },
]
