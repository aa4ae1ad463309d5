// The SQL of MariaDB and MySQL: the table of sessions, and each statement on it.

/*
 * The value is read and written as bytes, so that no character set converts it. The other texts are ASCII, except the
 * owner, whose column is binary.
 */
const COLUMNS = 'cast(value as binary), metadata, expires_at, version, owner'

/** Storage keys as keepsake makes them. */
const STORAGE_KEY = /^[A-Za-z0-9_.-]{1,64}$/

/**
 * Whether a text may be a key in a statement that is not prepared. A driver puts parameters into the text of such a
 * statement, and not every driver escapes them correctly in every SQL mode. So no other text may get there, for example
 * the key of a row that another program inserted.
 */
export const isStorageKey = (text: string): boolean => STORAGE_KEY.test(text)

/**
 * The statements on a table. A limit is a part of the text, because MySQL refuses the floating-point number that mysql2
 * makes of a parameter.
 *
 * @param table a name between quotes
 */
export const statementsFor = (table: string) => {
  const all = `select ${COLUMNS}, \`key\` from ${table}`
  /** The statements that remove rows, and that replace them by a mark. */
  const clearWhere = (condition: string) => ({
    remove: `delete from ${table} where ${condition}`,
    mark: `update ${table} set version = ?, metadata = ?, expires_at = ?, value = null, owner = null where ${condition}`,
  })
  const expired = 'expires_at <= ? and expires_at >= ?'

  return {
    schema: `create table if not exists ${table} (
  \`key\` varchar(64) character set ascii collate ascii_bin not null primary key,
  version varchar(16) character set ascii collate ascii_bin not null,
  expires_at bigint not null,
  metadata varchar(400) character set ascii collate ascii_bin not null,
  value longtext character set utf8mb4 collate utf8mb4_bin,
  owner varbinary(1100),
  key expires_at (expires_at),
  key owner (owner)
) engine = innodb row_format = dynamic;
`,
    select: `select ${COLUMNS} from ${table} where \`key\` = ?`,
    selectVersion: `select version from ${table} where \`key\` = ?`,
    insert: `insert into ${table} (\`key\`, version, expires_at, metadata, value, owner) values (?, ?, ?, ?, ?, ?)`,
    update: `update ${table} set version = ?, metadata = ?, value = ?, expires_at = coalesce(?, expires_at) where \`key\` = ? and version = ?`,
    touch: `update ${table} set expires_at = ? where \`key\` = ? and expires_at < ?`,
    clear: clearWhere('`key` = ?'),
    clearVersion: clearWhere('`key` = ? and version = ?'),
    selectOwned: `${all} where owner = ?`,
    clearOwned: clearWhere('owner = ?'),
    clearOwnedExcept: clearWhere('owner = ? and `key` <> ?'),
    selectPage: (limit: number) => `${all} where \`key\` > ? order by \`key\` limit ${limit}`,
    selectKeys: (count: number) =>
      `select \`key\` from ${table} where \`key\` in (${Array.from({ length: count }, () => '?').join(', ')})`,
    /** The expiry of the last entry of a batch that has `limit` entries. */
    selectBatchEnd: (limit: number) =>
      `select expires_at from ${table} where ${expired} order by expires_at limit 1 offset ${limit - 1}`,
    selectExpiredOwned: (limit: number) =>
      `select \`key\`, metadata, owner from ${table} where ${expired} and owner is not null order by expires_at limit ${limit}`,
    removeExpired: (limit: number) => `delete from ${table} where ${expired} order by expires_at limit ${limit}`,
  }
}

export type Statements = ReturnType<typeof statementsFor>
