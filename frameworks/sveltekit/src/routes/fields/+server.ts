import { json } from '@sveltejs/kit'
import { session } from 'keepsake'
import type { RequestHandler } from './$types'

export const GET: RequestHandler = async (event) => json((await session(event)).fields)
