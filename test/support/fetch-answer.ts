// The answers of adapter cases, for frameworks of Request and Response.

import type { Answer } from 'keepsake/testing'

export const toResponse = ({ body, status, headers }: Answer): Response => new Response(body, { status, headers })
