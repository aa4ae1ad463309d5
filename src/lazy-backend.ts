// Opens the backend of a manager at the first use, and again after it failed.

import type { Backend } from './backends/contract.ts'
import { backendFromUrl, checkSecret } from './backends/from-url.ts'
import { sweeper } from './backends/sweeper.ts'
import { HOW_TO_MAKE_ONE, keyRing, newSecret } from './crypto/seal.ts'
import { isKeepsakeError, KeepsakeError } from './error.ts'
import type { Configuration, SessionManagerOptions } from './options.ts'
import type { ManagerContext } from './session/context.ts'

const noSecret = ({ name }: Backend): KeepsakeError =>
  new KeepsakeError(
    'no_secret',
    `The ${name} backend keeps no secret of its own, so the option secret is required, the same for all processes: sessionManager({ backend, secret }). To make one: ${HOW_TO_MAKE_ONE}`,
  )

/** The context on an open backend. @throws KeepsakeError `no_secret`, `invalid_option`, `unavailable` */
const contextOn = async (
  backend: Backend,
  { settings, secrets }: Configuration,
  secret: SessionManagerOptions['secret'],
): Promise<ManagerContext> => {
  if (secret === undefined && backend.keepSecret === undefined) throw noSecret(backend)
  if (settings.maxSessionsPerOwner !== undefined && backend.byOwner === undefined) {
    throw new KeepsakeError(
      'invalid_option',
      `The ${backend.name} backend cannot find sessions by owner, so it does not support the option maxSessionsPerOwner.`,
    )
  }
  const storedSecret = await backend.keepSecret?.(newSecret())
  return {
    ...settings,
    backend,
    keyRing: keyRing(secrets, storedSecret),
    sweeper: sweeper(backend, settings.now, settings.emit, settings.ownerNames),
  }
}

/** Opens the backend of a manager. @throws KeepsakeError */
const openContext = async (checked: Configuration, options: SessionManagerOptions): Promise<ManagerContext> => {
  const { now, onEvent, secret, absoluteTimeout, storeTimeout } = options
  const { backend: given, settings } = checked
  if (typeof given !== 'string') return contextOn(given, checked, secret)
  checkSecret(given, { secret })
  const { namespace } = settings
  const seconds = absoluteTimeout ?? settings.absoluteTimeout / 1000
  const backend = await backendFromUrl(given, {
    ...{ now, onEvent, secret, namespace, storeTimeout },
    absoluteTimeout: seconds,
  })
  try {
    return await contextOn(backend, checked, secret)
  } catch (error) {
    // The next request opens another one.
    await Promise.resolve(backend.close?.()).catch(() => {})
    throw error
  }
}

/** Replaces the context of a backend that could not be opened: every call fails, and a logout still clears its cookie. */
export const failedContext = ({ settings }: Configuration, error: KeepsakeError): ManagerContext => {
  const fail = () => {
    throw error
  }
  const backend: Backend = { name: 'unopened', get: fail, generate: fail, set: fail, clear: fail, touch: fail }
  return {
    ...settings,
    backend,
    sweeper: sweeper(backend, settings.now, settings.emit, settings.ownerNames),
    get keyRing() {
      return fail()
    },
  }
}

/** Opens the backend at the first use, and again after it failed. */
export const openLazily = (checked: Configuration, options: SessionManagerOptions) => {
  const { emit } = checked.settings
  let context: ManagerContext | undefined
  let opening: Promise<ManagerContext> | undefined
  let checkedStore = false
  const opened = async (): Promise<ManagerContext> => {
    opening ??= openContext(checked, options)
    try {
      context = await opening
      return context
    } catch (error) {
      // The next request tries again: the file may exist by then.
      opening = undefined
      throw error instanceof KeepsakeError
        ? error
        : new KeepsakeError('unavailable', 'The backend could not be opened. See the cause.', { cause: error })
    }
  }
  return {
    current: () => context,
    opened,
    isChecked: () => checkedStore,
    /** Checks once whether the store may forget sessions, and again if it was down. @throws KeepsakeError `invalid_option` */
    async check({ backend }: ManagerContext): Promise<void> {
      checkedStore = true
      try {
        const message = await backend.check?.('sessions')
        if (message !== undefined) emit('eviction', { message })
      } catch (error) {
        checkedStore = false
        if (isKeepsakeError(error) && error.code === 'invalid_option') throw error
      }
    },
  }
}

/** The backend of a manager: not opened yet, open, or failed. */
export type LazyBackend = ReturnType<typeof openLazily>
