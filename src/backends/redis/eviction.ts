// Whether a Redis may evict what is alive, and what to say of it.

import { isKeepsakeError, KeepsakeError, messageOf } from '../../error.ts'
import type { Driver } from './client.ts'

/** How a server makes room, if it does; undefined where it does not say. */
const policyOf = (info: string): { readonly evicts: boolean; readonly words: string } | undefined => {
  const most = /^maxmemory:(\d+)/m.exec(info)?.[1]
  const policy = /^maxmemory_policy:([\w-]+)/m.exec(info)?.[1]
  if (most === undefined || policy === undefined) return undefined
  return { evicts: most !== '0' && policy !== 'noeviction', words: `maxmemory ${most}, maxmemory-policy ${policy}` }
}

/** Whether a server does not know INFO, or its user may not use it. */
const isForbidden = (error: unknown): boolean =>
  /^NOPERM|unknown command/.test(messageOf(isKeepsakeError(error) ? error.cause : error))

const UNSEEN =
  'It could not be looked at whether Redis evicts keys. Set its maxmemory-policy to noeviction, and let its user see that: ACL SETUSER … +info.'

/**
 * Looks at all servers. See `check` of a backend.
 *
 * @throws KeepsakeError `invalid_option` where ends may be evicted
 */
export const checkEviction = async (
  { send, masters }: Driver,
  use: 'sessions' | 'ends',
): Promise<string | undefined> => {
  const servers = masters === undefined ? [send] : await masters()
  let unseen = false
  for (const ask of servers) {
    let info = ''
    try {
      info = String(await ask(['info', 'memory']))
    } catch (error) {
      if (!isForbidden(error)) throw error
    }
    const policy = policyOf(info)
    unseen ||= policy === undefined
    if (!policy?.evicts) continue
    const how = `(${policy.words}). Set maxmemory-policy noeviction.`
    if (use === 'sessions') {
      return `Redis may evict sessions, which are logouts then, and lists of owners, so that revokeAll misses some ${how}`
    }
    throw new KeepsakeError(
      'invalid_option',
      `Redis may evict ends of sessions, and cookies that were logged out open again ${how}`,
    )
  }
  return unseen ? UNSEEN : undefined
}
