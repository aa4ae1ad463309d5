// The URL of a database: the number of connections in it, and errors about it that contain no password.

import { KeepsakeError } from '../../error.ts'
import { property } from './driver.ts'

/** The most connections that a process makes by default. */
const CONNECTIONS = 10

/**
 * The number of connections that an option or the parameter `connections` of a URL gives, and the URL without the
 * parameter.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const withConnections = (url: string, option: number | undefined): { url: string; connections: number } => {
  const parsed = URL.parse(url)
  const parameter = parsed?.searchParams.get('connections')
  const connections = option ?? (parameter == null ? CONNECTIONS : Number(parameter || Number.NaN))
  if (!Number.isSafeInteger(connections) || connections < 1) {
    throw new KeepsakeError(
      'invalid_option',
      `connections must be a whole number of at least 1, but is ${JSON.stringify(option ?? parameter)}.`,
    )
  }
  if (parsed == null || parameter == null) return { url, connections }
  parsed.searchParams.delete('connections')
  return { url: parsed.href, connections }
}

/**
 * Calls a driver with a URL. The URL may contain a password, so the error has no message of the driver, and no cause.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const fromUrl = <T>(url: string, create: () => T): T => {
  try {
    new URL(url)
    return create()
  } catch (error) {
    const [scheme] = url.split(':', 1)
    throw new KeepsakeError(
      'invalid_option',
      `This ${scheme}: URL cannot be read (${property(error, 'code') ?? 'no code'}). It must look like ${scheme}://user:password@host/database, with special characters of the password percent-encoded.`,
    )
  }
}
