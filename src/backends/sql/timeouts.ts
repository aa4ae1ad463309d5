// How long a connection of keepsake's own to a SQL database may take to open, and to answer.

/** Milliseconds that an attempt to connect may take: the default of `storeTimeout`. */
export const CONNECT_TIMEOUT = 2_000
/** Milliseconds that a statement may take. After that, keepsake gives up its connection. */
export const ANSWER_TIMEOUT = 5_000
