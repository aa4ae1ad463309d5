import { session } from 'keepsake'
import type { Route } from './+types/fields'

export const loader = async ({ context }: Route.LoaderArgs) => Response.json((await session(context)).fields)
