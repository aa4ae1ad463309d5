// Checks whether a Redis server may evict keys that have not expired.

import { isKeepsakeError, KeepsakeError, messageOf } from '../../error.ts'
import type { Driver } from './driver.ts'

type Policy = {
  readonly evicts: boolean
  /** The settings of the server, for messages. */
  readonly settings: string
}

/** Reads the eviction policy from the text of INFO. Returns undefined if it is not there. */
const policyOf = (info: string): Policy | undefined => {
  const maxmemory = /^maxmemory:(\d+)/m.exec(info)?.[1]
  const policy = /^maxmemory_policy:([\w-]+)/m.exec(info)?.[1]
  if (maxmemory === undefined || policy === undefined) return undefined
  const evicts = maxmemory !== '0' && policy !== 'noeviction'
  return { evicts, settings: `maxmemory ${maxmemory}, maxmemory-policy ${policy}` }
}

/** Whether the server does not have INFO, or its user may not use it. */
const isForbidden = (error: unknown): boolean =>
  /^NOPERM|unknown command/.test(messageOf(isKeepsakeError(error) ? error.cause : error))

const NOT_CHECKED =
  'keepsake could not check whether Redis evicts keys. Set maxmemory-policy noeviction, and let the Redis user read it: ACL SETUSER … +info.'

/**
 * Checks all servers. See `check` of a backend.
 *
 * @throws KeepsakeError `invalid_option` if a server may evict the ends of sessions
 */
export const checkEviction = async (
  { send, masters }: Driver,
  use: 'sessions' | 'ends',
): Promise<string | undefined> => {
  const servers = masters === undefined ? [send] : await masters()
  let isIncomplete = false
  for (const sendTo of servers) {
    let info = ''
    try {
      info = String(await sendTo(['info', 'memory']))
    } catch (error) {
      if (!isForbidden(error)) throw error
    }
    const policy = policyOf(info)
    isIncomplete ||= policy === undefined
    if (!policy?.evicts) continue
    const how = `(${policy.settings}). Set maxmemory-policy noeviction.`
    if (use === 'sessions') {
      return `Redis may evict sessions, which logs visitors out, and lists of owners, so that revokeAll misses sessions ${how}`
    }
    throw new KeepsakeError(
      'invalid_option',
      `Redis may evict the ends of sessions, so that cookies of ended sessions open again ${how}`,
    )
  }
  return isIncomplete ? NOT_CHECKED : undefined
}
