// Splits the Set-Cookie values of keepsake, for frameworks that set cookies by name.

/** The attributes of a cookie, named as the functions of frameworks name them. */
type CookieOptions = {
  readonly path: string
  readonly domain?: string
  /** Seconds. */
  readonly maxAge?: number
  readonly secure: boolean
  readonly httpOnly: boolean
  readonly sameSite?: 'strict' | 'lax' | 'none'
  readonly partitioned?: boolean
  readonly priority?: 'low' | 'medium' | 'high'
}

/** Splits a value that keepsake wrote. It accepts no others. */
export const splitSetCookie = (
  line: string,
): { readonly name: string; readonly value: string; readonly options: CookieOptions } => {
  const [pair = ['', ''], ...rest] = line.split('; ').map((part): readonly [string, string] => {
    const equals = part.indexOf('=')
    return equals < 0 ? [part, ''] : [part.slice(0, equals), part.slice(equals + 1)]
  })
  const attributes = new Map(rest)
  const word = (name: string) => attributes.get(name)?.toLowerCase() as never
  const maxAge = attributes.get('Max-Age')
  const domain = attributes.get('Domain')
  const [name, value] = pair
  return {
    name,
    value,
    options: {
      path: attributes.get('Path') ?? '/',
      secure: attributes.has('Secure'),
      httpOnly: attributes.has('HttpOnly'),
      ...(domain !== undefined && { domain }),
      ...(maxAge !== undefined && { maxAge: Number(maxAge) }),
      ...(attributes.has('SameSite') && { sameSite: word('SameSite') }),
      ...(attributes.has('Partitioned') && { partitioned: true }),
      ...(attributes.has('Priority') && { priority: word('Priority') }),
    },
  }
}
