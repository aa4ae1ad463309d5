import type { APIRoute } from 'astro'
import { session } from 'keepsake'

export const GET: APIRoute = async (context) => Response.json((await session(context)).fields)
