// The SQL of PostgreSQL: the table of sessions, and each operation as one statement.

import { hash } from 'node:crypto'
import type { Statement } from './postgres-client.ts'

/** The number of keepsake's advisory lock: processes that create tables concurrently wait for each other. */
const LOCK = 0x6b_65_65_70

const prepareRead = (text: string): Statement => ({ name: `keepsake_${hash('sha256', text).slice(0, 16)}`, text })

/**
 * The statements on a table. Each write returns one row.
 *
 * @param table a name between quotes
 * @param transactionNumber the last column of a write, for drivers that do not know whether a transaction is open
 */
export const statementsFor = (table: string, transactionNumber: string) => {
  /** A write. Its rows are `done` in the expressions of its result. */
  const prepareWrite = (work: string, result: string): Statement => {
    const text = `with done as (${work}) select ${result}`
    return { ...prepareRead(text), numbered: prepareRead(`${text}, ${transactionNumber}`) }
  }

  const schema = `create table ${table} (
  key text collate "C" primary key,
  version text collate "C" not null,
  expires_at bigint not null,
  metadata text collate "C" not null,
  value text,
  owner text collate "C"
) with (fillfactor = 90);
create index on ${table} (expires_at);
create index on ${table} (owner) where owner is not null;
`
  /*
   * The version after the write. The select reads the rows that were committed when the statement began. The insert or
   * the update waits for concurrent writes, and reads the rows that they leave. So the two may disagree: the select finds
   * no entry although the insert met one, or it finds the expected version although the update did not. Then there was
   * another write in between, and the statement is sent again.
   */
  const versionAfter = `coalesce((select version from done), (select version from ${table} where key = $1))`
  const count = '(select count(*) from done)'
  const makeMark = (condition: string) =>
    `update ${table} set version = $3, metadata = $4, expires_at = $5, value = null, owner = null where ${condition}`
  const selectWithKey = (condition: string) =>
    `select value, metadata, expires_at, version, owner, key from ${table} where ${condition}`
  // An insert that is not committed when these statements begin takes effect after them, as a whole.
  const owned = 'owner = $1 and key is distinct from $2'

  return {
    schema,
    migrate: {
      // Without a name it is not prepared.
      name: '',
      text: `do $keepsake$ begin
  if current_setting('server_encoding') not in ('UTF8', 'SQL_ASCII') then
    raise 'keepsake needs a database with the encoding UTF8, but this one has %', current_setting('server_encoding');
  end if;
  perform pg_advisory_xact_lock(${LOCK});
  if to_regclass('${table}') is null then
    ${schema}
  end if;
end $keepsake$`,
    },
    select: prepareRead(`select value, metadata, expires_at, version, owner from ${table} where key = $1`),
    insert: prepareWrite(
      `insert into ${table} (key, version, expires_at, metadata, value, owner) values ($1, $2, $3, $4, $5, $6)
    on conflict (key) do nothing returning version`,
      versionAfter,
    ),
    // If the expiry stays the same, PostgreSQL does not change its index: it compares the values.
    update: prepareWrite(
      `update ${table} set version = $3, metadata = $4, value = $5, expires_at = coalesce($6, expires_at)
    where key = $1 and version = $2 returning version`,
      versionAfter,
    ),
    touch: prepareWrite(`update ${table} set expires_at = $2 where key = $1 and expires_at < $2 returning 1`, count),
    remove: prepareWrite(`delete from ${table} where key = $1 returning 1`, count),
    removeVersion: prepareWrite(`delete from ${table} where key = $1 and version = $2 returning 1`, count),
    mark: prepareWrite(makeMark('key = $1 and ($2::text is null or version = $2) returning version'), versionAfter),
    // The keys are an array, because PostgreSQL may run a subquery of `in` more than once, with more rows each time.
    removeExpired: prepareWrite(
      `delete from ${table} where key = any (array(
      select key from ${table} where expires_at <= $1 and expires_at >= $3
      order by expires_at limit $2 for update skip locked
    )) returning expires_at, key, metadata, owner`,
      `${count}, (select max(expires_at) from done),
    (select json_agg(json_build_array(key, metadata, owner))::text from done where owner is not null)`,
    ),
    selectPage: prepareRead(selectWithKey('key > $1 order by key limit $2')),
    selectOwned: prepareRead(selectWithKey('owner = $1')),
    removeOwned: prepareWrite(`delete from ${table} where ${owned} returning 1`, count),
    markOwned: prepareWrite(makeMark(`${owned} returning 1`), count),
  }
}
