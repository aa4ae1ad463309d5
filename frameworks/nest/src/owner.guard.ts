// Refuses visitors who have not logged in.

import { type CanActivate, type ExecutionContext, Injectable, UnauthorizedException } from '@nestjs/common'
import { session } from 'keepsake'

@Injectable()
export class OwnerGuard implements CanActivate {
  async canActivate(context: ExecutionContext): Promise<boolean> {
    const s = await session(context.switchToHttp().getRequest())
    if (s.owner === undefined) throw new UnauthorizedException('Log in first.')
    return true
  }
}
