// Reads the scheme of the visitor's request from the headers of a proxy that the application trusts.

import type { IncomingRequest, RequestHeaders } from './request-head.ts'

/** Whether the proxy got the request over TLS, by X-Forwarded-Proto. */
export const isForwardedOverTls = (headers: RequestHeaders): boolean =>
  headers.get('x-forwarded-proto')?.split(',')[0]?.trim().toLowerCase() === 'https'

/** The URL of a request, with the scheme that the visitor used. */
export const visitorUrl = ({ headers, url }: IncomingRequest, trustProxy: boolean): string | undefined =>
  trustProxy && isForwardedOverTls(headers) ? url?.replace(/^http:/i, 'https:') : url
